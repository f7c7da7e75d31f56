"""An attributor with fake models and an index in memory: `python -m tests.integration.hostile.program DATA`.

All that untrusted input reaches is real: the port, interceptors, servicers, admission, decoder processes and a
durable ledger.
"""

import asyncio
import sys
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from attributor import server
from attributor.cli import log_to_stderr
from attributor.core.disputes import DisputeService
from attributor.core.pipeline import Pipeline
from attributor.settings import AttributorSettings
from attributor.wiring import Parts, observe_final
from attributor.workers.decoder_pool import DecoderPool
from attributor.workers.model_worker import ModelWorker
from gmvaluator.errors import GmvaluatorError
from gmvaluator.ids import OwnerId, TrainingImageId, sha256_hex, training_image_id
from gmvaluator.ledger.group_commit import LedgerWriter
from gmvaluator.ledger.store import open_ledger
from gmvaluator.ports import CandidateSearch, Generator, Point
from gmvaluator.testing.index import MemoryIndex, MemorySearch, MemoryStore
from gmvaluator.testing.models import FAKE_IDENTITY, FakeModels
from gmvaluator.testing.postings import FakeRights

WORKS = 80
GENERATORS = [Generator(name, "works", ("set",), "paper@1") for name in ("demo", "other")]


class OneCollection:
    """Returns the same search for every name."""

    def __init__(self) -> None:
        self._index = MemoryIndex()
        store = MemoryStore(self._index)
        store.create(FAKE_IDENTITY)
        models = FakeModels()
        pictures = [_picture(seed) for seed in range(WORKS)]
        rows = models.embed_works([models.prepare_work(picture) for picture in pictures])
        store.upsert(
            [
                Point(work_id(seed), rows.recall[seed], rows.perceptual[seed], {"key": str(seed), "data_set": ["set"]})
                for seed in range(WORKS)
            ]
        )

    async def search(self, collection: str) -> CandidateSearch:
        return MemorySearch(self._index)

    async def measured_recall(self, collection: str) -> float | None:
        return None

    async def close(self) -> None:
        return None


class HostileParts(Parts):
    """Parts without a catalogue, so there are no collections to check."""

    async def check_collections(self) -> None:
        return None


class Names:
    """A catalogue without names."""

    def display_names(self, owner_ids: object) -> dict[Any, str]:
        return {}


def work_id(seed: int) -> TrainingImageId:
    return training_image_id(sha256_hex(f"work {seed}".encode()))


def _picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8))


def wire(settings: AttributorSettings, on_failure: Callable[[GmvaluatorError], None]) -> Parts:
    """Replace `attributor.wiring.wire`."""
    with ExitStack() as stack:
        writer = LedgerWriter(lambda: open_ledger(settings.place, write=True), on_failure)
        writer.start()
        stack.callback(writer.close)
        ledger = stack.enter_context(open_ledger(settings.place))
        worker = ModelWorker(FakeModels, settings.max_batch, on_failure=on_failure)
        models = worker.start()
        stack.callback(worker.close)
        executor = stack.enter_context(ThreadPoolExecutor(4))
        decoder = DecoderPool(models.prepare, settings.decoders)
        stack.callback(decoder.close)
        decoder.start()
        owners = {work_id(seed): OwnerId(uuid.UUID(int=seed + 1)) for seed in range(WORKS)}
        rights = FakeRights.with_owners(GENERATORS, owners)
        collections = OneCollection()
        parts = (worker, decoder, collections, rights, ledger, writer, executor, settings.policies)
        pipeline = Pipeline(*parts, on_final=observe_final)
        disputes = DisputeService(ledger, rights, writer)
        return HostileParts(
            pipeline, decoder, cast(Any, collections), cast(Any, Names()), ledger, disputes, stack.pop_all()
        )


def main() -> None:
    cast(Any, server).wire = wire
    log_to_stderr()
    settings = AttributorSettings(Path(sys.argv[1]), address="127.0.0.1:0", drain_s=2)
    asyncio.run(server.serve(settings, lambda address, _: print(address, flush=True)))  # noqa: T201


if __name__ == "__main__":
    main()
