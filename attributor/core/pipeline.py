"""The method, stage by stage, for one generated image: decode, embed, recall, re-rank, quality, post."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from attributor.core.attribution import Attribution, Embedded, ImageRequest, Stopwatch
from attributor.core.loop_fairness import LoopScheduler
from attributor.core.responses import final_stage, recalled_stage, reranked_stage, stored_attribution
from attributor.workers.decoder_pool import Decoder
from attributor.workers.model_worker import Features, ModelWorker
from gmvaluator.errors import InvalidInput, InvalidPolicy, InvalidVector, ModelFailed, NotFound, PreconditionFailed
from gmvaluator.ids import GenerationId, TrainingImageId
from gmvaluator.index.schema import duplicate_group
from gmvaluator.index.vectors import checked_vector, checked_vectors
from gmvaluator.ledger.allocation import MAX_NEAR_MISSES, Group, ScoredCandidate, rank
from gmvaluator.ledger.idempotency import check_fingerprint
from gmvaluator.ledger.posting import ValuedImage, build_posting
from gmvaluator.ledger.records import ATTRIBUTOR, CLIENT, ImageFacts, NewPosting, StoredPosting
from gmvaluator.ledger.results import Posted, Replayed
from gmvaluator.ports import Candidate, CandidateSearch, Float32Array, Generator, Prepared, RightsReader, WorkCard
from gmvaluator.valuation.policy import Policy, load_policy
from gmvaluator.valuation.weights import MILLION, distance_millionths, quality_millionths

Out = TypeVar("Out")

MAX_QUERY_VIEWS = 8
"""Of one image, where a client sends embeddings."""

_load_policy = lru_cache(maxsize=64)(load_policy)
"""A policy's file never changes: a change is another version."""


def _checked_views(sent: Float32Array, dimension: int) -> Float32Array:
    """(Q · P,) to (Q, P). Raises InvalidVector."""
    count, rest = divmod(len(sent), dimension)
    if rest or not 1 <= count <= MAX_QUERY_VIEWS:
        raise InvalidVector(
            f"embedding.perceptual has {len(sent)} numbers: give 1 to {MAX_QUERY_VIEWS} views of {dimension} each"
        )
    return checked_vectors(sent.reshape(count, dimension), count, dimension, "embedding.perceptual")


@contextmanager
def blamed_on_us() -> Iterator[None]:
    """Once the image was accepted, what models, index or thumbnails are refused for is not the caller's fault."""
    try:
        yield
    except InvalidInput as error:
        raise ModelFailed(f"the image could not be valued: {error}") from error


@asynccontextmanager
async def begun(work: Coroutine[Any, Any, Out]) -> AsyncIterator[Awaitable[Out]]:
    """Work that goes on by itself from now on, to be awaited inside; it is cancelled if it is not."""
    task = asyncio.create_task(work)
    await asyncio.sleep(0)
    try:
        yield task
    finally:
        if not task.cancel():
            # What it raised is known to whoever awaited it, or went down with something earlier.
            _ = task.cancelled() or task.exception()


class PostingReader(Protocol):
    """Reading side of the ledger; blocking but short."""

    def find(self, generator_identity: str, generation_id: GenerationId) -> StoredPosting | None: ...


class PostingWriter(Protocol):
    """Writing side of the ledger."""

    async def post(self, posting: NewPosting) -> Posted | Replayed: ...


class ImageKeeper(Protocol):
    """Keeps thumbnails of images that are posted; blocking but short, and raises nothing."""

    def keep(self, sha256: str, thumbnail: bytes) -> None: ...


class Collections(Protocol):
    """The collections that can be searched, checked against the profile in use."""

    async def search(self, collection: str) -> CandidateSearch:
        """Raises MissingIndex or ProfileMismatch."""

    async def measured_recall(self, collection: str) -> float | None:
        """Share of the true neighbours that the index finds, in (0, 1]; None if it was never measured."""


class Rights(RightsReader, Protocol):
    """Reading side of the catalogue, which may know an answer already."""

    def remembered(self, ids: Sequence[TrainingImageId], at: datetime) -> dict[TrainingImageId, WorkCard] | None:
        """As `works` without blocking, or None."""


@dataclass(frozen=True, slots=True)
class _Lookup:
    """What is known of a request before its image is looked at."""

    generator: Generator
    policy: Policy


@dataclass(frozen=True, slots=True)
class _Reranked:
    """What is known before quality: who is paid, nearest first, all candidates that were compared, and how many more
    were recalled. recall: see `Collections.measured_recall`.
    """

    paid: list[Group]
    scored: list[ScoredCandidate]
    unlisted: int
    recall: float | None

    @property
    def works(self) -> list[TrainingImageId]:
        """Those whose rights are needed."""
        return [one.training_image_id for group in self.paid for one in group.members]


@dataclass(frozen=True, slots=True)
class _Seen:
    """An image as the models see it. inputs: their input, for a quality that is yet to be computed.

    thumbnail: of an image that is to be kept.
    """

    facts: ImageFacts
    features: Features
    inputs: Prepared | None = None
    thumbnail: bytes | None = None


@dataclass(frozen=True, slots=True)
class _Found:
    """What is known once an image is embedded, and what is on its way: quality in millionths."""

    facts: ImageFacts
    recalled: Sequence[Candidate]
    reranking: Awaitable[_Reranked]
    quality: Awaitable[int]
    thumbnail: bytes | None


class _ToPost(NamedTuple):
    """What is posted once FINAL is known, and the picture that is kept of it."""

    posting: NewPosting
    thumbnail: bytes | None


@dataclass(frozen=True)
class Pipeline:
    """Values images; `posting` says whether the credits are posted or only computed.

    Blocking work runs in `executor`; the models have a process of their own, and the ledger's writer a thread.
    scorer: where quality is computed if it is a model of its own; None for `worker`, behind its embeddings.
    keeper: keeps thumbnails of images that are posted; None where none are.
    on_final: called with each FINAL of `attribute` and `preview`, before the caller gets it.
    """

    worker: ModelWorker
    decoder: Decoder
    collections: Collections
    rights: Rights
    ledger: PostingReader
    writer: PostingWriter
    executor: Executor
    policies: Path | None = None
    scorer: ModelWorker | None = None
    turns: LoopScheduler = field(default_factory=LoopScheduler)
    keeper: ImageKeeper | None = None
    on_final: Callable[[Attribution], None] = lambda final: None  # noqa: ARG005

    async def attribute(self, request: ImageRequest) -> AsyncGenerator[Attribution, None]:
        """RECALLED, RERANKED and FINAL, or one FINAL with `replayed` if this generation was posted before.

        Once FINAL was reached the posting is durable. Raises what the stages raise; then nothing was posted.
        """
        watch = Stopwatch()
        look = await self._run(self._look_up, request)
        if isinstance(look, StoredPosting):
            yield self._observed(await self._stored(look, watch))
            return
        async with aclosing(self._stages(request, look, watch, self.keeper is not None)) as stages:
            async for attribution, valued in stages:
                if valued is None:
                    yield attribution
                else:
                    # A caller that goes away now must not leave a posting half known: the commit is awaited anyway.
                    yield self._observed(await asyncio.shield(self._post(attribution, valued, watch)))

    async def preview(self, request: ImageRequest) -> AsyncGenerator[Attribution, None]:
        """As `attribute`, but nothing is looked up in the ledger or posted."""
        watch = Stopwatch()
        look = await self._run(self._valued_by, request)
        async with aclosing(self._stages(request, look, watch)) as stages:
            async for attribution, valued in stages:
                yield attribution if valued is None else self._observed(attribution)

    async def find(self, generator_identity: str, generation_id: GenerationId) -> Attribution:
        """The stored answer. Raises NotFound."""
        watch = Stopwatch()
        stored = await self._run(self.ledger.find, generator_identity, generation_id)
        if stored is None:
            raise NotFound(f"nothing was posted for generation {generation_id}")
        return await self._stored(stored, watch)

    def _observed(self, final: Attribution) -> Attribution:
        self.on_final(final)
        return final

    async def _stages(
        self, request: ImageRequest, look: _Lookup, watch: Stopwatch, keeping: bool = False
    ) -> AsyncGenerator[tuple[Attribution, _ToPost | None], None]:
        search = await self.collections.search(look.generator.collection)
        watch.lap("lookup_ms")
        seen = await self._seen(request, watch, keeping)
        features = seen.features
        await self.turns.take()
        with blamed_on_us():
            async with begun(self._quality(seen)) as quality:
                recalled = await search.recall(features.recall, look.policy.depth, look.generator.data_sets)
                watch.lap("recall_ms")
                async with begun(self._rerank(search, look, features, recalled)) as reranking:
                    found = _Found(seen.facts, recalled, reranking, quality, seen.thumbnail)
                    async with aclosing(self._answers(request, look, found, watch)) as stages:
                        async for stage in stages:
                            yield stage

    async def _seen(self, request: ImageRequest, watch: Stopwatch, keeping: bool) -> _Seen:
        """The image as the models see it: here, or where it was made."""
        if request.embedded is not None:
            return self._seen_by_client(request.embedded)
        assert request.image is not None
        with self.worker.coming():
            decoded = await self.decoder.decode(request.image, keeping)
        watch.lap("decode_ms")
        with blamed_on_us():
            features = await self.worker.embed(decoded.inputs)
        watch.book(queue_ms=features.queue_ms, embed_ms=features.embed_ms)
        return _Seen(decoded.facts, features, decoded.inputs, decoded.thumbnail)

    def _seen_by_client(self, sent: Embedded) -> _Seen:
        """Raises InvalidVector, naming the vector, or PreconditionFailed if they are of another profile."""
        identity = self.worker.models.identity
        if sent.profile_hash != identity.hash:
            raise PreconditionFailed(
                f"the embedding is of profile {sent.profile_hash or 'nothing'}, and this attributor's is "
                f"{identity.name}, {identity.hash}: compute it with the same version of gmvaluator"
            )
        recall = checked_vector(sent.recall, identity.recall_dim, "embedding.recall")
        perceptual = _checked_views(sent.perceptual, identity.perceptual_dim)
        return _Seen(sent.facts, Features(recall, perceptual, sent.quality, 0.0, 0.0))

    async def _answers(
        self, request: ImageRequest, look: _Lookup, found: _Found, watch: Stopwatch
    ) -> AsyncGenerator[tuple[Attribution, _ToPost | None], None]:
        """Each stage as soon as it is known; re-ranking and quality are under way meanwhile."""
        recalled = found.recalled
        policy = look.policy
        cards = await self._works([one.training_image_id for one in recalled[: policy.k]], request.generated_at)
        await self.turns.take()
        yield recalled_stage(request, policy, recalled, cards, watch.read()), None

        reranked = await found.reranking
        unknown = [one for one in reranked.works if one not in cards]
        cards |= await self._works(unknown, request.generated_at)
        await self.turns.take()
        watch.lap("rerank_ms")
        yield reranked_stage(request, policy, reranked.paid, cards, watch.read()), None
        watch.book()

        quality = await found.quality
        await self.turns.take()
        watch.lap("quality_ms")
        valued = self._valued(request, look.generator, found.facts, quality, watch)
        valued = replace(valued, unlisted=reranked.unlisted, recall=reranked.recall)
        posting = build_posting(valued, policy, reranked.scored, cards)
        yield final_stage(request, posting.evidence, cards, watch.read()), _ToPost(posting, found.thumbnail)

    def _look_up(self, request: ImageRequest) -> StoredPosting | _Lookup:
        return self._posted_before(request) or self._valued_by(request)

    def _valued_by(self, request: ImageRequest) -> _Lookup:
        generator = self.rights.generator(request.model_version)
        return _Lookup(generator, self._policy(request, generator))

    def _policy(self, request: ImageRequest, generator: Generator) -> Policy:
        """The policy asked for, or the generator's own, whose faults are the operator's."""
        policy = _load_policy(request.policy, self.policies) if request.policy else self._bound_policy(generator)
        policy.check_profile(self.worker.models.identity.hash)
        return policy

    def _bound_policy(self, generator: Generator) -> Policy:
        try:
            return _load_policy(generator.policy, self.policies)
        except InvalidPolicy as error:
            raise PreconditionFailed(f"generator {generator.model_version} cannot be valued: {error}") from error

    async def _rerank(
        self, search: CandidateSearch, look: _Lookup, features: Features, recalled: Sequence[Candidate]
    ) -> _Reranked:
        """Near-copies are gathered before the cut, so a policy with groups compares all candidates."""
        policy = look.policy
        found = {one.training_image_id: one for one in recalled}
        wanted = policy.k + MAX_NEAR_MISSES if policy.groups is None else len(found)
        neighbours = await search.rerank(features.perceptual, list(found), wanted)
        await self.turns.take()
        scored = [
            ScoredCandidate(
                one.training_image_id,
                distance_millionths(one.perceptual_distance),
                round(found[one.training_image_id].clip_similarity * MILLION),
                None if policy.groups is None else duplicate_group(found[one.training_image_id].payload),
            )
            for one in neighbours
        ]
        recall = None
        if policy.uncertainty is not None:
            recall = await self.collections.measured_recall(look.generator.collection)
        paid, _ = rank(scored, policy)
        return _Reranked(paid, scored, len(found) - len(scored), recall)

    async def _works(self, ids: Sequence[TrainingImageId], at: datetime) -> dict[TrainingImageId, WorkCard]:
        known = self.rights.remembered(ids, at)
        return await self._run(self.rights.works, ids, at) if known is None else known

    async def _quality(self, seen: _Seen) -> int:
        quality = seen.features.quality
        if quality is None:
            assert seen.inputs is not None
            quality = await (self.scorer or self.worker).quality(seen.inputs)
        return quality_millionths(quality)

    def _valued(
        self, request: ImageRequest, generator: Generator, facts: ImageFacts, quality: int, watch: Stopwatch
    ) -> ValuedImage:
        timings = watch.read()
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

    async def _post(self, attribution: Attribution, valued: _ToPost, watch: Stopwatch) -> Attribution:
        if self.keeper is not None and valued.thumbnail is not None:
            # First, so that whoever sees the posting sees the picture.
            await self._run(self.keeper.keep, valued.posting.evidence.image.sha256, valued.thumbnail)
        watch.book()
        posted = await self.writer.post(valued.posting)
        watch.lap("post_ms")
        if isinstance(posted, Replayed):
            return await self._stored(posted.posting, watch)
        return replace(
            attribution,
            sequence=posted.posting.sequence,
            head_hash=bytes.fromhex(posted.posting.hash),
            timings=watch.read(),
        )

    def _posted_before(self, request: ImageRequest) -> StoredPosting | None:
        """What this generation id posted; raises GenerationConflict if that was of another image or generator."""
        stored = self.ledger.find(request.generator_identity, request.generation_id)
        if stored is not None:
            check_fingerprint(stored, request.image_sha256, request.model_version)
        return stored

    async def _stored(self, stored: StoredPosting, watch: Stopwatch) -> Attribution:
        ids = [one.training_image_id for one in stored.evidence.contributions]
        generated_at = datetime.fromisoformat(stored.header.generated_at)
        cards = await self._works(ids, generated_at)
        return stored_attribution(stored, cards, watch.read())

    async def _run(self, function: Callable[..., Out], *arguments: object) -> Out:
        return await asyncio.get_running_loop().run_in_executor(self.executor, function, *arguments)
