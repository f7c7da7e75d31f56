"""Both clients: retries, streams, pages and watches."""

from collections.abc import AsyncIterator, Callable, Iterator

import grpc
import pytest

from gmvaluator.client.aio import AsyncAttributorClient
from gmvaluator.client.requests import Retries
from gmvaluator.client.sync import AttributorClient
from gmvaluator.errors import GmvaluatorError, ImageTooLarge, InvalidInput, Overloaded, Unavailable
from gmvaluator.images import MAX_IMAGE_BYTES
from gmvaluator.testing.attributor import FakeAttributor, fake_attributor
from gmvaluator.v1 import attribution_pb2 as v1

QUICK = Retries(attempts=4, first_pause_s=0.01)
Finals = Callable[..., "list[v1.Attribution]"]


@pytest.fixture
def attributor() -> Iterator[FakeAttributor]:
    with fake_attributor() as running:
        yield running


async def stages(kind: str, attributor: FakeAttributor, retries: Retries = QUICK, deadline_s: float = 10) -> list[int]:
    if kind == "sync":
        with AttributorClient(attributor.address, deadline_s, retries) as client:
            return [stage.stage for stage in client.attribute(b"x", "g1", "m")]
    async with AsyncAttributorClient(attributor.address, deadline_s, retries) as aio:
        return [stage.stage async for stage in aio.attribute(b"x", "g1", "m")]


both = pytest.mark.parametrize("kind", ["sync", "aio"])


@both
async def test_transient_errors_are_retried_with_the_same_id(kind: str, attributor: FakeAttributor) -> None:
    attributor.fail_next(grpc.StatusCode.UNAVAILABLE)
    attributor.fail_next(grpc.StatusCode.RESOURCE_EXHAUSTED, grpc_retry_pushback_ms="20")
    assert (await stages(kind, attributor))[-1] == v1.STAGE_FINAL
    assert [request.generation_id for request in attributor.requests] == ["g1"] * 3
    assert attributor.posted == {"g1": 1}


@both
@pytest.mark.parametrize(
    ("code", "metadata", "error"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, {}, InvalidInput),
        (grpc.StatusCode.INTERNAL, {}, GmvaluatorError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, {"grpc_retry_pushback_ms": "-1"}, Overloaded),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, {"grpc_retry_pushback_ms": "60000"}, Overloaded),
    ],
)
async def test_other_errors_are_not_retried(
    kind: str, attributor: FakeAttributor, code: grpc.StatusCode, metadata: dict[str, str], error: type[Exception]
) -> None:
    attributor.fail_next(code, **metadata)
    with pytest.raises(error):
        await stages(kind, attributor)
    assert len(attributor.requests) == 1


@both
async def test_attempts_are_bounded_and_one_is_the_default(kind: str, attributor: FakeAttributor) -> None:
    for _ in range(10):
        attributor.fail_next(grpc.StatusCode.UNAVAILABLE)
    with pytest.raises(Unavailable):
        await stages(kind, attributor)
    assert len(attributor.requests) == 4
    with pytest.raises(Unavailable):
        await stages(kind, attributor, Retries(attempts=1))
    assert len(attributor.requests) == 5


def test_after_any_number_of_attempts_the_pause_is_the_longest() -> None:
    pause_s = Retries(attempts=10**9).pause_s(Unavailable(""), 1_000_000, 3600)
    assert pause_s is not None
    assert 5 <= pause_s <= 10


def test_many_images_on_one_stream(attributor: FakeAttributor) -> None:
    with AttributorClient(attributor.address) as client:
        answers = dict(client.attribute_many([("a", b"x"), ("b", b"bad"), ("c", b"x")], "m"))
    assert isinstance(answers["b"], InvalidInput)
    assert {name for name, answer in answers.items() if isinstance(answer, v1.Attribution)} == {"a", "c"}


async def test_many_images_on_one_stream_from_an_event_loop(attributor: FakeAttributor) -> None:
    async def images() -> AsyncIterator[tuple[str, bytes]]:
        for name in ("a", "b"):
            yield name, b"x"

    async with AsyncAttributorClient(attributor.address) as client:
        assert {name async for name, _ in client.attribute_many(images(), "m")} == {"a", "b"}


TOO_LARGE = b"x" * (MAX_IMAGE_BYTES + 1)


def images_then(broken: Exception | None) -> Iterator[tuple[str, bytes]]:
    yield from [("a", b"x"), ("large", TOO_LARGE), ("b", b"x"), ("larger", TOO_LARGE)]
    if broken is not None:
        raise broken


async def each(images: Iterator[tuple[str, bytes]]) -> AsyncIterator[tuple[str, bytes]]:
    for image in images:
        yield image


async def stream(
    kind: str, address: str, images: Iterator[tuple[str, bytes]], answers: dict[str, v1.Attribution | GmvaluatorError]
) -> None:
    """Fill `answers` with each image's last answer."""
    if kind == "sync":
        with AttributorClient(address) as client:
            for name, answer in client.attribute_many(images, "m"):
                answers[name] = answer  # noqa: PERF403 - answers before an error count
    else:
        async with AsyncAttributorClient(address) as aio:
            async for name, answer in aio.attribute_many(each(images), "m"):
                answers[name] = answer  # noqa: PERF403


@both
async def test_an_image_that_cannot_be_sent_fails_alone(kind: str, attributor: FakeAttributor) -> None:
    answers: dict[str, v1.Attribution | GmvaluatorError] = {}
    await stream(kind, attributor.address, images_then(None), answers)
    assert {name for name, answer in answers.items() if isinstance(answer, v1.Attribution)} == {"a", "b"}
    assert {name for name, answer in answers.items() if isinstance(answer, ImageTooLarge)} == {"large", "larger"}


@both
async def test_an_exception_of_the_callers_iterator_reaches_the_caller(kind: str, attributor: FakeAttributor) -> None:
    answers: dict[str, v1.Attribution | GmvaluatorError] = {}
    with pytest.raises(ZeroDivisionError, match="of the caller"):
        await stream(kind, attributor.address, images_then(ZeroDivisionError("of the caller")), answers)
    assert set(answers) == {"a", "large", "b", "larger"}


@both
async def test_balances_are_read_page_by_page(kind: str, attributor: FakeAttributor) -> None:
    attributor.accounts = {"held": 3, "suspense": 2, "unattributed": 1}
    if kind == "sync":
        with AttributorClient(attributor.address) as client:
            royalties = list(client.royalties(page_size=2))
    else:
        async with AsyncAttributorClient(attributor.address) as aio:
            royalties = [royalty async for royalty in aio.royalties(page_size=2)]
    assert {royalty.account: royalty.balance_micros for royalty in royalties} == attributor.accounts


@both
async def test_a_dispute_is_opened(kind: str, attributor: FakeAttributor) -> None:
    if kind == "sync":
        with AttributorClient(attributor.address) as client:
            dispute = client.open_dispute("d1", "a copy", generation_id="g1", claimant="us")
    else:
        async with AsyncAttributorClient(attributor.address) as aio:
            dispute = await aio.open_dispute("d1", "a copy", generation_id="g1", claimant="us")
    assert dispute.dispute_id == "d1"
    request = attributor.disputes["d1"]
    assert (request.reason, request.generation_id, request.claimant) == ("a copy", "g1", "us")


async def test_watching_resumes_after_a_cut_without_a_gap(attributor: FakeAttributor) -> None:
    with AttributorClient(attributor.address) as client:
        postings = client.watch_royalties(resume=True)
        sequences = [posting.sequence for posting, _ in zip(postings, range(5), strict=False)]
        with pytest.raises(Unavailable):
            list(client.watch_royalties())
    assert sequences == [1, 2, 3, 4, 5]
    async with AsyncAttributorClient(attributor.address) as aio:
        numbers = []
        async for posting in aio.watch_royalties(after_sequence=7, resume=True):
            numbers.append(posting.sequence)
            if len(numbers) == 3:
                break
    assert numbers == [8, 9, 10]
