"""The one place that names concrete classes and puts them together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import structlog

from attributor.core.attribution import Attribution
from attributor.core.collections import OpenCollections
from attributor.core.disputes import DisputeDesk
from attributor.core.pipeline import Pipeline
from attributor.core.pixel_reranking import PixelReranking
from attributor.ops.metrics import (
    POSTED,
    PREVIEW,
    REPLAYED,
    images,
    observe_batch,
    observe_collection,
    observe_credits,
    observe_stages,
    observe_unkept,
)
from attributor.ops.thumbnails import DAY_S, NONE, ThumbnailStore
from attributor.settings import AttributorSettings
from attributor.workers.decoder_pool import DecoderPool
from attributor.workers.model_process import ModelProcess
from attributor.workers.model_worker import ModelWorker
from gmvaluator.auth.secret_files import qdrant_api_key
from gmvaluator.catalogue.rights_cache import CachedRights
from gmvaluator.catalogue.store import Catalogue, open_catalogue
from gmvaluator.errors import GmvaluatorError, PreconditionFailed
from gmvaluator.index.opening import open_search
from gmvaluator.index.schema import KEY_GROUP
from gmvaluator.ledger.group_commit import LedgerWriter
from gmvaluator.ledger.store import Ledger, open_ledger
from gmvaluator.models.known_models import COMPARES_PIXELS
from gmvaluator.ports import CandidateSearch
from gmvaluator.storage.data_folder import generated_folder, index_location, thumbnails_folder

BLOCKING_THREADS = 4
SCORED_TOGETHER = 4
"""Images whose crops may share a pass of a quality model that works in slices; the first that came is done first."""

QUALITY_NICENESS = 10
"""Of the process that computes quality: what has a processor to itself is not slowed by it."""

_log = structlog.get_logger("attributor")


@dataclass(frozen=True, slots=True)
class Parts:
    """A wired attributor. `close` ends everything that was opened, the ledger's writer last but one."""

    pipeline: Pipeline
    decoder: DecoderPool
    collections: OpenCollections
    catalogue: Catalogue
    ledger: Ledger
    disputes: DisputeDesk
    stack: ExitStack

    async def close(self) -> None:
        try:
            await self.collections.close()
        finally:
            self.stack.close()

    async def check_collections(self) -> None:
        """Open the collection of every generator, so that a wrong index shows at the start and not at a call.

        Raises MissingIndex, ProfileMismatch or IndexUnavailable.
        """
        generators = await asyncio.to_thread(self.catalogue.generators)
        for collection in sorted({generator.collection for generator in generators}):
            observe_collection(await self.collections.look_again(collection))


def wire(settings: AttributorSettings, on_failure: Callable[[GmvaluatorError], None]) -> Parts:
    """Open the files, load the models and warm up; blocks for seconds. `on_failure`: the process has to end.

    Raises MissingData, AlreadyHeld, UnknownProfile, MissingWeights and what opening the ledger raises.
    """
    with ExitStack() as stack:
        catalogue = stack.enter_context(open_catalogue(settings.place))
        writer = LedgerWriter(lambda: open_ledger(settings.place, write=True), on_failure)
        writer.start()
        stack.callback(writer.close)
        ledger = stack.enter_context(open_ledger(settings.place))
        worker = ModelWorker(
            lambda: ModelProcess(settings.profile, settings.device, settings.model_threads or None),
            settings.max_batch,
            on_failure=on_failure,
            on_batch=observe_batch,
            max_delay_s=settings.max_delay_ms / 1000,
        )
        models = worker.start()
        stack.callback(worker.close)
        executor = stack.enter_context(ThreadPoolExecutor(BLOCKING_THREADS, thread_name_prefix="blocking"))

        def opened(name: str) -> CandidateSearch:
            search = _open_search(settings, name)
            if not models.identity.perceptual_model.startswith(COMPARES_PIXELS):
                return search
            thumbnails = thumbnails_folder(settings.data)
            return PixelReranking(search, thumbnails, models.prepare, worker.embed, executor)

        collections = OpenCollections(opened, models.identity)
        decoder = DecoderPool(models.prepare, settings.decoders)
        stack.callback(decoder.close)
        decoder.start()
        rights = CachedRights(catalogue)
        scorer = _scorer(settings, on_failure, stack) if worker.quality_apart else None
        parts = (worker, decoder, collections, rights, ledger, writer, executor, settings.policies, scorer)
        pipeline = Pipeline(*parts, keeper=_keeper(settings, stack), on_final=observe_final)
        desk = DisputeDesk(ledger, catalogue, writer)
        return Parts(pipeline, decoder, collections, catalogue, ledger, desk, stack.pop_all())


def observe_final(final: Attribution) -> None:
    """Count an image that reached FINAL, and log it."""
    outcome = REPLAYED if final.replayed else PREVIEW if final.sequence is None else POSTED
    images.labels(outcome).inc()
    timings_ms = final.timings.as_dict()
    if outcome != REPLAYED:
        observe_stages(timings_ms)
    if outcome == POSTED:
        observe_credits(final.issued_micros or 0, final.unattributed_micros or 0, final.quality or 0.0)
    _log.info(
        outcome,
        generation_id=final.generation_id,
        model_version=final.model_version,
        sequence=final.sequence,
        issued_micros=final.issued_micros,
        total_ms=timings_ms["total_ms"],
    )


def _scorer(
    settings: AttributorSettings, on_failure: Callable[[GmvaluatorError], None], stack: ExitStack
) -> ModelWorker:
    """A second process for a quality model that takes long: its batch would keep embeddings waiting for as long."""
    scorer = ModelWorker(
        lambda: ModelProcess(settings.profile, settings.device, settings.model_threads or None, QUALITY_NICENESS),
        max_batch=SCORED_TOGETHER,
        on_failure=on_failure,
    )
    scorer.start()
    stack.callback(scorer.close)
    return scorer


def _keeper(settings: AttributorSettings, stack: ExitStack) -> ThumbnailStore | None:
    """Raises PreconditionFailed if thumbnails are to be kept and cannot be."""
    if settings.keep_images == NONE:
        return None
    folder = generated_folder(settings.data)
    keeper = ThumbnailStore(
        folder, settings.keep_images_mib * 1024 * 1024, settings.keep_images_days * DAY_S, on_problem=observe_unkept
    )
    try:
        keeper.start()
    except OSError as error:
        why = f"thumbnails cannot be kept in {folder} ({error.strerror}): make it writable, or use --keep-images none"
        raise PreconditionFailed(why) from error
    stack.callback(keeper.close)
    return keeper


def _open_search(settings: AttributorSettings, collection: str) -> CandidateSearch:
    return open_search(
        index_location(settings.data, settings.index),
        collection,
        api_key=qdrant_api_key(),
        payload_keys=(KEY_GROUP,),
    )
