"""The attributor's process: NOT_SERVING until warm, SERVING, and a drain in two stages on SIGTERM.

A port for probes: grpc.health.v1 and nothing else, without TLS, which kubelets' gRPC probes do not speak.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from attributor.ops.background import background_task
from attributor.ops.memory import give_back_growth, use_few_arenas
from attributor.ops.metrics import (
    REGISTRY,
    FileMetricsCollector,
    RuntimeCollector,
    RuntimeState,
    measure_loop_lag,
    poll_collections,
    serve_metrics,
)
from attributor.rpc.admission import Admission
from attributor.rpc.call_limits import CallGate, Counters
from attributor.rpc.interceptors import Authentication, MessageInterceptor
from attributor.rpc.servicers import AttributionServicer, RoyaltyServicer
from attributor.rpc.tls import TlsFiles, certificate_expiry
from attributor.settings import AttributorSettings
from attributor.wiring import Parts, wire
from gmvaluator.auth.authenticator import Authenticator, is_loopback
from gmvaluator.errors import GmvaluatorError, InvalidInput, PreconditionFailed
from gmvaluator.v1 import attribution_pb2, royalty_pb2
from gmvaluator.v1.attribution_pb2_grpc import add_AttributionServiceServicer_to_server
from gmvaluator.v1.royalty_pb2_grpc import add_RoyaltyServiceServicer_to_server

LIVENESS = "gmvaluator.liveness"
"""Service that is SERVING for as long as the event loop answers, while models load and while calls drain too."""

_PROBES_AT_ONCE = 16


@asynccontextmanager
async def probes_answered(address: str, checker: health.aio.HealthServicer) -> AsyncGenerator[int, None]:
    """Answer at `address` what `checker` knows, until this is left; the port. Nothing is opened for an empty address.

    Raises PreconditionFailed if the address cannot be listened on.
    """
    await checker.set(LIVENESS, health_pb2.HealthCheckResponse.SERVING)
    if not address:
        yield 0
        return
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)], maximum_concurrent_rpcs=_PROBES_AT_ONCE)
    health_pb2_grpc.add_HealthServicer_to_server(checker, server)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise PreconditionFailed(f"health cannot be answered on {address}: is another program there?") from error
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0)


SERVICES = (
    "",
    attribution_pb2.DESCRIPTOR.services_by_name["AttributionService"].full_name,
    royalty_pb2.DESCRIPTOR.services_by_name["RoyaltyService"].full_name,
)
LAST_STAGE_S = 2.0
KEEPALIVE_MS = 300_000
SPARE_CALLS = 512
"""Calls beside those in flight: health (a client of several attributors watches it all the time), readers, watchers,
and refusals under way."""

_log = structlog.get_logger("attributor")


async def serve(settings: AttributorSettings, announce: Callable[[str, str], None]) -> None:
    """Run until SIGTERM or SIGINT; `announce` gets the address, and that of the metrics, once health says SERVING.

    Raises what wiring raised (ProfileMismatch, AlreadyHeld, MissingData), and LedgerFailed if the ledger's writer
    stopped: then the process has to end, and recovers at its next start.
    """
    use_few_arenas()
    stop, hurry = _stop_on_signals()
    failures: list[GmvaluatorError] = []
    loop = asyncio.get_running_loop()

    def on_failure(error: GmvaluatorError) -> None:
        failures.append(error)
        loop.call_soon_threadsafe(stop.set)

    service = CallGate(Admission(settings.max_in_flight, settings.max_pixels_in_flight))
    authenticator = load_authenticator(settings)
    credentials = tls_credentials(settings)
    metrics = f"{settings.metrics.rpartition(':')[0]}:{serve_metrics(settings.metrics)}" if settings.metrics else ""
    server, checker, address = await listen(settings, service, stop, authenticator, credentials)
    async with probes_answered(settings.health, checker):
        wiring = asyncio.create_task(asyncio.to_thread(wire, settings, on_failure))
        try:
            parts = await _unless_stopped(wiring, stop)
            if parts is not None:
                await _serve_until(stop, hurry, settings, service, parts, checker, lambda: announce(address, metrics))
        finally:
            await server.stop(0 if hurry.is_set() else LAST_STAGE_S)
            if not wiring.cancelled() and wiring.done() and wiring.exception() is None:
                await wiring.result().close()
    if failures:
        raise failures[0]


async def _serve_until(
    stop: asyncio.Event,
    hurry: asyncio.Event,
    settings: AttributorSettings,
    service: CallGate,
    parts: Parts,
    checker: health.aio.HealthServicer,
    announce: Callable[[], None],
) -> None:
    await parts.check_collections()
    REGISTRY.register(RuntimeCollector(lambda: _runtime_state(service, parts)))
    REGISTRY.register(file_metrics(settings))
    service.open(Counters(parts.pipeline, parts.ledger, parts.catalogue, parts.disputes))
    # What was made until now stays: let the garbage collector look at a request's own objects only.
    gc.collect()
    gc.freeze()
    await set_health(checker, health_pb2.HealthCheckResponse.SERVING)
    announce()
    async with (
        background_task(measure_loop_lag()),
        background_task(give_back_growth()),
        background_task(poll_collections(parts.check_collections)),
    ):
        await stop.wait()
        drained = await drain(service, checker, settings.drain_s, hurry)
    _log.info("stopping", drained=drained, in_flight=service.in_flight)


def _runtime_state(service: CallGate, parts: Parts) -> RuntimeState:
    worker, decoder = parts.pipeline.worker, parts.decoder
    return RuntimeState(
        in_flight=service.in_flight,
        queue_images=worker.waiting,
        model_dropped_images=worker.counts.dropped,
        model_failed_images=worker.counts.failed,
        model_restarts=worker.counts.restarts,
        decoded_images=decoder.counts.decoded,
        undecodable_images=decoder.counts.refused,
        decoder_restarts=decoder.counts.restarts,
    )


def file_metrics(settings: AttributorSettings) -> FileMetricsCollector:
    """Return the collector of the certificates and the data folder that `settings` name."""
    certificates = {"server": settings.tls_cert, "client_ca": settings.client_ca}
    expiry = {use: partial(certificate_expiry, path) for use, path in certificates.items() if path is not None}
    return FileMetricsCollector(settings.data, expiry)


async def listen(
    settings: AttributorSettings,
    service: CallGate,
    stop: asyncio.Event,
    authenticator: Authenticator,
    credentials: grpc.ServerCredentials | None,
) -> tuple[grpc.aio.Server, health.aio.HealthServicer, str]:
    """The running server, its health, which says NOT_SERVING, and its address. Raises PreconditionFailed."""
    server = grpc.aio.server(
        interceptors=[Authentication(authenticator), MessageInterceptor()],
        options=[
            ("grpc.max_receive_message_length", settings.max_message_bytes),
            ("grpc.so_reuseport", 0),
            ("grpc.keepalive_time_ms", KEEPALIVE_MS),
            # No connection alone can have all the calls that there may be.
            ("grpc.max_concurrent_streams", settings.max_in_flight + SPARE_CALLS // 2),
        ],
        maximum_concurrent_rpcs=settings.max_in_flight + SPARE_CALLS,
    )
    checker = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checker, server)
    add_AttributionServiceServicer_to_server(AttributionServicer(service, stop), server)
    add_RoyaltyServiceServicer_to_server(RoyaltyServicer(service, stop), server)
    if settings.reflection or (settings.reflection is None and authenticator.anonymous_allowed and credentials is None):
        reflection.enable_server_reflection((*SERVICES[1:], reflection.SERVICE_NAME, health.SERVICE_NAME), server)
    await set_health(checker, health_pb2.HealthCheckResponse.NOT_SERVING)
    try:
        port = (
            server.add_insecure_port(settings.address)
            if credentials is None
            else server.add_secure_port(settings.address, credentials)
        )
    except RuntimeError as error:
        raise PreconditionFailed(
            f"cannot listen on {settings.address}: is another attributor running there?"
        ) from error
    await server.start()
    return server, checker, f"{settings.address.rpartition(':')[0]}:{port}"


def load_authenticator(settings: AttributorSettings) -> Authenticator:
    """Who is let in. Raises PreconditionFailed if the address can be reached from outside without a token."""
    authenticator = Authenticator(
        settings.tokens_file,
        required=settings.tokens is not None,
        on_problem=lambda problem: _log.error("tokens", problem=problem),
    )
    if settings.insecure or is_loopback(settings.address):
        return authenticator
    if authenticator.anonymous_allowed:
        raise PreconditionFailed(
            f"{settings.address} can be reached from other machines and there are no tokens: make one by "
            "`gmvaluator token new --role generator`, or say --insecure if everyone who can connect may do everything"
        )
    if settings.tls_cert is None:
        raise PreconditionFailed(
            f"{settings.address} can be reached from other machines and tokens would go there in the clear: give "
            "--tls-cert and --tls-key, or say --insecure if something else encrypts"
        )
    return authenticator


def tls_credentials(settings: AttributorSettings) -> grpc.ServerCredentials | None:
    """What the port is opened with; None without TLS. Raises PreconditionFailed or InvalidInput."""
    if settings.tls_cert is None or settings.tls_key is None:
        if settings.tls_cert or settings.tls_key or settings.client_ca:
            raise InvalidInput("--tls-cert and --tls-key go together, and --client-ca with both")
        return None
    files = TlsFiles(settings.tls_cert, settings.tls_key, settings.client_ca)
    return files.credentials(lambda problem: _log.error("tls", problem=problem))


async def set_health(checker: health.aio.HealthServicer, status: int) -> None:
    for name in SERVICES:
        await checker.set(name, status)


def _stop_on_signals() -> tuple[asyncio.Event, asyncio.Event]:
    """Set by the first and by the second SIGTERM or SIGINT."""
    stop, hurry = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (hurry if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    return stop, hurry


async def _unless_stopped(wiring: asyncio.Task[Parts], stop: asyncio.Event) -> Parts | None:
    """The parts, or None if a signal came first (loading cannot be interrupted; it is waited for)."""
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({wiring, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if stop.is_set():
        with contextlib.suppress(GmvaluatorError):
            await wiring
        return None
    return await wiring


async def drain(
    service: CallGate, checker: health.aio.HealthServicer, drain_s: float, hurry: asyncio.Event | None = None
) -> bool:
    """Say NOT_SERVING, refuse new calls, and wait for those in flight.

    False if some are left after `drain_s`, or when `hurry` is set.
    """
    await set_health(checker, health_pb2.HealthCheckResponse.NOT_SERVING)
    service.close()
    waits = [asyncio.ensure_future(event.wait()) for event in (service.idle, hurry) if event is not None]
    await asyncio.wait(waits, timeout=drain_s, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    return service.idle.is_set()
