"""Load generator of the serving benchmark. It runs in a process of its own, so that it measures a caller's latency.

Run as `python -m evaluation.bench.serving.load --help`.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc
import rich_click as click

from gmvaluator.client.connection import Connection
from gmvaluator.v1 import attribution_pb2 as attribution_v1
from gmvaluator.v1.attribution_pb2_grpc import AttributionServiceStub

DEADLINE_S = 120.0
SUFFIXES = (".webp", ".jpg", ".jpeg", ".png")


@dataclass(frozen=True, slots=True)
class Call:
    """A call as seen by its caller.

    status: OK or the gRPC status. sent_s: seconds since the load began. ended_ms, recalled_ms, reranked_ms, final_ms:
    milliseconds from sending to the end, whatever its status, and to each stage; 0 for a stage that did not arrive.
    timings: the service's own timings in milliseconds.
    """

    status: str
    sent_s: float
    ended_ms: float
    recalled_ms: float = 0.0
    reranked_ms: float = 0.0
    final_ms: float = 0.0
    timings: dict[str, float] | None = None


def image_files(folder: Path) -> list[Path]:
    """Return the image files in a folder, sorted by name."""
    return sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)


class Load:
    """A client that sends images under new generation ids."""

    def __init__(
        self, address: str, images: list[bytes], model_version: str, prefix: str, deadline_s: float = DEADLINE_S
    ) -> None:
        self._channel = Connection(address).aio_channel()
        self._stub = AttributionServiceStub(self._channel)
        self._images = images
        self._model_version = model_version
        self._prefix = prefix
        self._deadline_s = deadline_s
        self._began = time.monotonic()

    async def send(self, number: int, due: float | None = None) -> Call:
        """Send image `number` modulo their count. due: time.monotonic() from which latencies count; default: now."""
        request = attribution_v1.AttributeRequest(
            generation_id=f"{self._prefix}:{number}",
            model_version=self._model_version,
            image=self._images[number % len(self._images)],
        )
        sent = time.monotonic() if due is None else due
        arrived: dict[int, float] = {}
        timings: dict[str, float] = {}
        status = "OK"
        try:
            async for response in self._stub.Attribute(request, timeout=self._deadline_s):
                arrived[response.attribution.stage] = (time.monotonic() - sent) * 1000
                timings = _timings(response.attribution.timings)
        except grpc.aio.AioRpcError as error:
            status = error.code().name
        return Call(
            status,
            sent - self._began,
            (time.monotonic() - sent) * 1000,
            recalled_ms=arrived.get(attribution_v1.STAGE_RECALLED, 0.0),
            reranked_ms=arrived.get(attribution_v1.STAGE_RERANKED, 0.0),
            final_ms=arrived.get(attribution_v1.STAGE_FINAL, 0.0),
            timings=timings,
        )

    async def closed_loop(self, count: int, concurrency: int) -> list[Call]:
        """Send `count` images from `concurrency` callers, each of which sends its next image after the last answer."""
        numbers = iter(range(count))

        async def caller() -> list[Call]:
            return [await self.send(number) for number in numbers]

        return [call for calls in await asyncio.gather(*(caller() for _ in range(concurrency))) for call in calls]

    async def open_loop(self, count: int, per_second: float) -> list[Call]:
        """Send `count` images at a fixed rate, whether or not earlier ones were answered.

        Latencies count from when an image was due, so that a late sender hides none (coordinated omission).
        """
        start = time.monotonic()
        calls = []
        for number in range(count):
            due = start + number / per_second
            await asyncio.sleep(max(due - time.monotonic(), 0))
            calls.append(asyncio.create_task(self.send(number, due)))
        return list(await asyncio.gather(*calls))

    async def close(self) -> None:
        await self._channel.close()


def _timings(message: attribution_v1.StageTimings) -> dict[str, float]:
    return {descriptor.name: value for descriptor, value in message.ListFields()}


@click.command()
@click.option("--address", required=True)
@click.option("--images", required=True, type=click.Path(exists=True, path_type=Path), help="Folder of images.")
@click.option("--model-version", required=True)
@click.option("--prefix", required=True, help="Of the generation ids.")
@click.option("--count", required=True, type=int)
@click.option("--concurrency", default=0, help="Closed loop with so many callers.")
@click.option("--per-second", default=0.0, help="Open loop at this rate.")
def main(
    address: str, images: Path, model_version: str, prefix: str, count: int, concurrency: int, per_second: float
) -> None:
    """Send images and print a JSON object with the seconds and each call."""
    data = [path.read_bytes() for path in image_files(images)]
    click.echo(json.dumps(asyncio.run(_run(address, data, model_version, prefix, count, concurrency, per_second))))


async def _run(
    address: str,
    data: list[bytes],
    model_version: str,
    prefix: str,
    count: int,
    concurrency: int,
    per_second: float,
) -> dict[str, object]:
    load = Load(address, data, model_version, prefix)
    try:
        started = time.monotonic()
        if per_second:
            calls = await load.open_loop(count, per_second)
        else:
            calls = await load.closed_loop(count, concurrency)
        return {"seconds": time.monotonic() - started, "calls": [asdict(call) for call in calls]}
    finally:
        await load.close()


if __name__ == "__main__":
    main()
