"""Wiring: the one module that names the attributor's concrete classes, and connects them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

import structlog

from attributor.core.attribution import Attribution
from attributor.core.clock import LedgerClock, newest_time
from attributor.core.collections import OpenCollections
from attributor.core.disputes import DisputeService
from attributor.core.pipeline import Pipeline
from attributor.core.pixel_reranking import PixelReranking
from attributor.ops.bindings import BindingLog
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
"""Threads for blocking work: reading ledger and catalogue, storing thumbnails."""

QUALITY_BATCH = 4
"""Images in a batch of a separate quality model; their crops may share a forward pass, the first image ends first."""

QUALITY_NICENESS = 10
"""Niceness of the process that computes quality; it costs nothing where the process has a processor of its own."""

_log = structlog.get_logger("attributor")


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a running attributor."""

    pipeline: Pipeline
    decoder: DecoderPool
    collections: OpenCollections
    catalogue: Catalogue
    ledger: Ledger
    disputes: DisputeService
    stack: ExitStack
    bindings: BindingLog = field(default_factory=BindingLog)

    async def close(self) -> None:
        """Close all that was opened, in reverse order; the ledger's writer goes after everything that posts."""
        try:
            await self.collections.close()
        finally:
            self.stack.close()

    async def check_collections(self) -> None:
        """Log every generator and open its collection, so that a wrong index ends the start and not a call.

        Raises MissingIndex, ProfileMismatch or IndexUnavailable.
        """
        generators = await asyncio.to_thread(self.catalogue.generators)
        await asyncio.to_thread(self.bindings.observe, generators, self.pipeline.policy_problem)
        for collection in sorted({generator.collection for generator in generators}):
            observe_collection(await self.collections.refresh(collection))


def wire(settings: AttributorSettings, on_failure: Callable[[GmvaluatorError], None]) -> Parts:
    """Open the files, load the models and warm them up; blocks for seconds.

    on_failure: called from a thread if the process has to end.
    Raises MissingData, AlreadyHeld, UnknownProfile, MissingWeights and what opening the ledger raises.
    """
    with ExitStack() as stack:
        _log.info("starting", step="opening the catalogue and the ledger", data=str(settings.data))
        catalogue = stack.enter_context(open_catalogue(settings.place))
        writer = LedgerWriter(lambda: open_ledger(settings.place, write=True), on_failure)
        writer.start()
        stack.callback(writer.close)
        # A connection of its own, so that readers do not wait for the transactions of the writer.
        ledger = stack.enter_context(open_ledger(settings.place))
        _log.info("starting", step="loading the models", device=settings.device)
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

        def open_collection(name: str) -> CandidateSearch:
            search = _open_search(settings, name)
            if not models.identity.perceptual_model.startswith(COMPARES_PIXELS):
                return search
            thumbnails = thumbnails_folder(settings.data)
            return PixelReranking(search, thumbnails, models.prepare, worker.embed, executor)

        collections = OpenCollections(open_collection, models.identity)
        _log.info("starting", step="starting the decoders", decoders=settings.decoders)
        decoder = DecoderPool(models.prepare, settings.decoders, check_size=models.identity.check_size)
        stack.callback(decoder.close)
        decoder.start()
        rights = CachedRights(catalogue)
        scorer = _scorer(settings, on_failure, stack) if worker.quality_apart else None
        parts = (worker, decoder, collections, rights, ledger, writer, executor, settings.policies, scorer)
        clock = LedgerClock((lambda: None) if settings.trust_clock else partial(newest_time, ledger))
        pipeline = Pipeline(*parts, keeper=_thumbnail_store(settings, stack), on_final=observe_final, clock=clock)
        disputes = DisputeService(ledger, catalogue, writer, clock=clock, max_per_month=settings.max_disputes_per_month)
        return Parts(pipeline, decoder, collections, catalogue, ledger, disputes, stack.pop_all())


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
    """Start a second process for a separate quality model: in one process, its slow batches would block embeddings."""
    scorer = ModelWorker(
        lambda: ModelProcess(settings.profile, settings.device, settings.model_threads or None, QUALITY_NICENESS),
        max_batch=QUALITY_BATCH,
        on_failure=on_failure,
    )
    scorer.start()
    stack.callback(scorer.close)
    return scorer


def _thumbnail_store(settings: AttributorSettings, stack: ExitStack) -> ThumbnailStore | None:
    """Start the store of thumbnails, if one is configured. Raises PreconditionFailed if its folder is not writable."""
    if settings.keep_images == NONE:
        return None
    folder = generated_folder(settings.data)
    store = ThumbnailStore(
        folder, settings.keep_images_mib * 1024 * 1024, settings.keep_images_days * DAY_S, on_problem=observe_unkept
    )
    try:
        store.start()
    except OSError as error:
        why = f"thumbnails cannot be kept in {folder} ({error.strerror}): make it writable, or use --keep-images none"
        raise PreconditionFailed(why) from error
    stack.callback(store.close)
    return store


def _open_search(settings: AttributorSettings, collection: str) -> CandidateSearch:
    return open_search(
        index_location(settings.data, settings.index),
        collection,
        api_key=qdrant_api_key(),
        payload_keys=(KEY_GROUP,),
    )
