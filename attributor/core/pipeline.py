"""The method for one generated image, stage by stage: decode, embed, recall, re-rank, quality, value, post."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import Executor
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from attributor.core.attribution import Attribution, ImageRequest, Stopwatch
from attributor.core.clock import LedgerClock
from attributor.core.image_embedding import EmbeddedImage, QueryEmbedder, as_model_failure
from attributor.core.loop_fairness import LoopScheduler
from attributor.core.ranking import Ranking, Reranked, background
from attributor.core.responses import final_stage, recalled_stage, reranked_stage, stored_attribution
from attributor.workers.decoder_pool import Decoder
from attributor.workers.model_worker import ModelWorker
from gmvaluator.errors import (
    Failure,
    InvalidInput,
    InvalidPolicy,
    NotFound,
    PreconditionFailed,
)
from gmvaluator.ids import GenerationId, TrainingImageId
from gmvaluator.ledger.idempotency import check_fingerprint
from gmvaluator.ledger.posting import ValuedImage, build_posting
from gmvaluator.ledger.reader import LedgerReader
from gmvaluator.ledger.records import ATTRIBUTOR, CLIENT, ImageFacts, NewPosting, StoredPosting
from gmvaluator.ledger.results import Posted, Replayed
from gmvaluator.ports import Candidate, CandidateSearch, Generator, RightsReader, WorkCard
from gmvaluator.valuation.policy import Policy, load_policy

Out = TypeVar("Out")

_load_policy = lru_cache(maxsize=64)(load_policy)
"""`load_policy` with a cache: a policy's file never changes, because a change is a new version."""


class PostingWriter(Protocol):
    """Writing side of the ledger."""

    async def post(self, posting: NewPosting) -> Posted | Replayed: ...


class ImageKeeper(Protocol):
    """A store of thumbnails of posted images; it blocks, but briefly, and raises nothing."""

    def keep(self, sha256: str, thumbnail: bytes) -> None: ...


class Collections(Protocol):
    """The collections that can be searched, checked against the profile in use."""

    async def search(self, collection: str) -> CandidateSearch:
        """Return the search of a collection. Raises MissingIndex or ProfileMismatch."""

    async def measured_recall(self, collection: str) -> float | None:
        """Return the share of true neighbours that the index finds, in (0, 1]; None if it was never measured."""


class Rights(RightsReader, Protocol):
    """Reading side of the catalogue, with a cache."""

    def cached_works(self, ids: Sequence[TrainingImageId], at: datetime) -> dict[TrainingImageId, WorkCard] | None:
        """Return what `works` would return, without blocking; None if the cache lacks any of it."""


@dataclass(frozen=True, slots=True)
class _Context:
    """The registered facts that a request is valued by."""

    generator: Generator
    policy: Policy


class _ToPost(NamedTuple):
    """The posting of a FINAL, and the thumbnail that is stored with it."""

    posting: NewPosting
    thumbnail: bytes | None


@dataclass(frozen=True)
class Pipeline:
    """The attribution pipeline: `attribute` posts an image's credits, `preview` only computes them.

    Blocking work runs in `executor`; the models have a process of their own, and the ledger's writer a thread.
    policies: folder of the operator's policies.
    clock: judges the times of images that are posted; by default, this machine's, whatever the ledger says.
    scorer: computes quality if that is a separate model; None: `worker` does, with its embeddings.
    keeper: stores thumbnails of posted images; None: none are stored.
    on_final: called with each FINAL of `attribute` and `preview`, before the caller gets it.
    """

    worker: ModelWorker
    decoder: Decoder
    collections: Collections
    rights: Rights
    ledger: LedgerReader
    writer: PostingWriter
    executor: Executor
    policies: Path | None = None
    scorer: ModelWorker | None = None
    clock: LedgerClock = field(default_factory=lambda: LedgerClock(lambda: None))
    scheduler: LoopScheduler = field(default_factory=LoopScheduler)
    keeper: ImageKeeper | None = None
    on_final: Callable[[Attribution], None] = lambda final: None  # noqa: ARG005

    async def attribute(self, request: ImageRequest) -> AsyncGenerator[Attribution, None]:
        """Yield RECALLED, RERANKED and FINAL, or one FINAL with `replayed` if this generation was posted before.

        When FINAL is yielded the posting is durable. Raises what the stages raise; then nothing was posted.
        """
        stopwatch = Stopwatch()
        context = await self._run(self._look_up, request)
        if isinstance(context, StoredPosting):
            yield self._observed(await self._stored(context, stopwatch))
            return
        async with aclosing(self._stages(request, context, stopwatch, self.keeper is not None)) as stages:
            async for attribution, to_post in stages:
                if to_post is None:
                    yield attribution
                else:
                    # A caller that cancels now must not leave the outcome unknown: the commit is awaited all the same.
                    yield self._observed(await asyncio.shield(self._post(attribution, to_post, stopwatch)))

    async def preview(self, request: ImageRequest) -> AsyncGenerator[Attribution, None]:
        """Yield the stages of `attribute` without reading or writing the ledger."""
        stopwatch = Stopwatch()
        context = await self._run(self._context, request)
        async with aclosing(self._stages(request, context, stopwatch)) as stages:
            async for attribution, to_post in stages:
                yield attribution if to_post is None else self._observed(attribution)

    async def find(self, generator_identity: str, generation_id: GenerationId) -> Attribution:
        """Return the stored FINAL of a generation. Raises NotFound."""
        stopwatch = Stopwatch()
        stored = await self._run(self.ledger.find, generator_identity, generation_id)
        if stored is None:
            raise NotFound(f"nothing was posted for generation {generation_id}")
        return await self._stored(stored, stopwatch)

    def _observed(self, final: Attribution) -> Attribution:
        self.on_final(final)
        return final

    async def _stages(
        self, request: ImageRequest, context: _Context, stopwatch: Stopwatch, with_thumbnail: bool = False
    ) -> AsyncGenerator[tuple[Attribution, _ToPost | None], None]:
        """Yield each stage as soon as it is known, FINAL with its posting.

        Quality is computed next to recall and re-ranking, and re-ranking while RECALLED is built and sent.
        """
        generator, policy = context.generator, context.policy
        search = await self.collections.search(generator.collection)
        stopwatch.lap("lookup_ms")
        embedder = QueryEmbedder(self.worker, self.decoder, self.scorer)
        image = await embedder.embed(request, policy.parts is not None, stopwatch, with_thumbnail)
        await self.scheduler.yield_turn()
        async with self._ranking(search, context, embedder, image, stopwatch) as (recalled, reranking, scoring):
            ids = [candidate.training_image_id for candidate in recalled[: policy.k]]
            cards = await self._works(ids, request.generated_at)
            await self.scheduler.yield_turn()
            yield recalled_stage(request, policy, recalled, cards, stopwatch.read()), None

            reranked = await reranking
            missing = [work for work in reranked.works if work not in cards]
            cards |= await self._works(missing, request.generated_at)
            await self.scheduler.yield_turn()
            stopwatch.lap("rerank_ms")
            yield reranked_stage(request, policy, reranked.paid, reranked.content, cards, stopwatch.read()), None
            # The time until the caller took RERANKED is no part of quality.
            stopwatch.record()

            quality = await scoring
            await self.scheduler.yield_turn()
            stopwatch.lap("quality_ms")
            valued = self._valued(request, generator, image.facts, quality, stopwatch)
            valued = replace(valued, unlisted=reranked.unlisted, recall=reranked.recall, content=reranked.content)
            posting = build_posting(valued, policy, reranked.scored, cards)
            to_post = _ToPost(posting, image.thumbnail)
            yield final_stage(request, posting.evidence, cards, stopwatch.read()), to_post

    @asynccontextmanager
    async def _ranking(
        self,
        search: CandidateSearch,
        context: _Context,
        embedder: QueryEmbedder,
        image: EmbeddedImage,
        stopwatch: Stopwatch,
    ) -> AsyncIterator[tuple[Sequence[Candidate], Awaitable[Reranked], Awaitable[int]]]:
        """Recall candidates; yield those of the whole image with the re-ranking and the quality (in millionths) that
        are under way."""
        generator = context.generator
        ranking = Ranking(
            search,
            context.policy,
            image.features,
            image.local,
            self.executor,
            self.scheduler,
            partial(self.collections.measured_recall, generator.collection),
        )
        with as_model_failure():
            async with background(embedder.quality(image)) as scoring:
                recalled = await ranking.recall(generator.data_sets)
                stopwatch.lap("recall_ms")
                async with background(ranking.rerank(recalled)) as reranking:
                    yield recalled.whole, reranking, scoring

    def _look_up(self, request: ImageRequest) -> StoredPosting | _Context:
        stored = self._posted_before(request)
        if stored is None:
            self.clock.check(request.generated_at)
        return stored or self._context(request)

    def _context(self, request: ImageRequest) -> _Context:
        generator = self.rights.generator(request.model_version)
        return _Context(generator, self._policy(request, generator))

    def _policy(self, request: ImageRequest, generator: Generator) -> Policy:
        """Return the requested policy, whose faults are the caller's, or the generator's own."""
        policy = _load_policy(request.policy, self.policies) if request.policy else self._bound_policy(generator)
        policy.check_profile(self.worker.models.identity.hash)
        return policy

    def _bound_policy(self, generator: Generator) -> Policy:
        """Return the policy of a generator. Its faults are the operator's: raises PreconditionFailed."""
        try:
            return _load_policy(generator.policy, self.policies)
        except InvalidPolicy as error:
            raise PreconditionFailed(f"generator {generator.model_version} cannot be valued: {error}") from error

    def policy_problem(self, generator: Generator) -> str:
        """Return why a generator's own policy values no image of this profile; "" if it does."""
        try:
            self._bound_policy(generator).check_profile(self.worker.models.identity.hash)
        except PreconditionFailed as error:
            return str(error)
        return ""

    async def _works(self, ids: Sequence[TrainingImageId], at: datetime) -> dict[TrainingImageId, WorkCard]:
        cached = self.rights.cached_works(ids, at)
        return await self._run(self.rights.works, ids, at) if cached is None else cached

    def _valued(
        self, request: ImageRequest, generator: Generator, facts: ImageFacts, quality: int, stopwatch: Stopwatch
    ) -> ValuedImage:
        timings = stopwatch.read()
        return ValuedImage(
            generator_identity=request.generator_identity,
            generation_id=request.generation_id,
            generated_at=request.generated_at,
            image=facts,
            model_version=request.model_version,
            collection=generator.collection,
            profile=self.worker.models.identity,
            quality_millionths=quality,
            timings_ms=timings.as_dict(),
            embedded_by=ATTRIBUTOR if request.embedded is None else CLIENT,
        )

    async def _post(self, attribution: Attribution, to_post: _ToPost, stopwatch: Stopwatch) -> Attribution:
        if self.keeper is not None and to_post.thumbnail is not None:
            # Before the posting, so that a reader of the posting finds its thumbnail.
            await self._run(self.keeper.keep, to_post.posting.evidence.image.sha256, to_post.thumbnail)
        stopwatch.record()
        posted = await self._posted(to_post.posting)
        stopwatch.lap("post_ms")
        if isinstance(posted, Replayed):
            # The same generation was posted while this one was being valued.
            return await self._stored(posted.posting, stopwatch)
        return replace(
            attribution,
            sequence=posted.posting.sequence,
            head_hash=bytes.fromhex(posted.posting.hash),
            timings=stopwatch.read(),
        )

    async def _posted(self, posting: NewPosting) -> Posted | Replayed:
        try:
            return await self.writer.post(posting)
        except InvalidInput as error:
            # The request was valid: what the ledger refuses was computed here.
            raise Failure(f"the posting of {posting.generation_id} was refused: {error}") from error

    def _posted_before(self, request: ImageRequest) -> StoredPosting | None:
        """Return the posting of this generation id. Raises GenerationConflict if its image or generator differs."""
        stored = self.ledger.find(request.generator_identity, request.generation_id)
        if stored is not None:
            check_fingerprint(stored, request.image_sha256, request.model_version)
        return stored

    async def _stored(self, stored: StoredPosting, stopwatch: Stopwatch) -> Attribution:
        ids = [contribution.training_image_id for contribution in stored.evidence.contributions]
        generated_at = datetime.fromisoformat(stored.header.generated_at)
        cards = await self._works(ids, generated_at)
        return stored_attribution(stored, cards, stopwatch.read())

    async def _run(self, function: Callable[..., Out], *arguments: object) -> Out:
        return await asyncio.get_running_loop().run_in_executor(self.executor, function, *arguments)
