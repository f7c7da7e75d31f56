"""The attributor's gRPC server: start, health, metrics and shutdown.

Health is NOT_SERVING until the models are loaded, and again from the first SIGTERM on, which drains the calls in
flight. A second SIGTERM ends the drain.
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
from attributor.ops.descriptors import allow_connections
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
from attributor.rpc.call_limits import Backends, CallGate
from attributor.rpc.health import HealthServicer
from attributor.rpc.interceptors import Authentication, MessageInterceptor
from attributor.rpc.places import MAX_CONNECTION_CALLS, WaitingCalls
from attributor.rpc.servicers import AttributionServicer, RoyaltyServicer
from attributor.rpc.tls import TlsFiles, certificate_expiry
from attributor.settings import AttributorSettings
from attributor.wiring import Parts, wire
from gmvaluator.auth import listening
from gmvaluator.auth.authenticator import Authenticator, is_loopback
from gmvaluator.errors import GmvaluatorError, InvalidInput, PreconditionFailed
from gmvaluator.v1 import attribution_pb2, royalty_pb2
from gmvaluator.v1.attribution_pb2_grpc import add_AttributionServiceServicer_to_server
from gmvaluator.v1.royalty_pb2_grpc import add_RoyaltyServiceServicer_to_server

LIVENESS = "gmvaluator.liveness"
"""Health service that is SERVING while the event loop runs, also while models load and while calls drain."""

SERVICES = (
    "",
    attribution_pb2.DESCRIPTOR.services_by_name["AttributionService"].full_name,
    royalty_pb2.DESCRIPTOR.services_by_name["RoyaltyService"].full_name,
)
"""Names that health is reported for; the empty name is the server's overall health."""

LAST_STAGE_S = 2.0
"""Time that calls get after the drain to end with a status, before they are cut off."""

KEEPALIVE_MS = 300_000
"""Interval of the pings that find connections whose other end is gone."""

IDLE_MS = 900_000
"""Time after which a connection without a call is closed; clients connect again by themselves."""

HANDSHAKE_MS = 10_000
"""Time that a connection may take for its handshakes, TLS included."""

SPARE_CALLS = 256
"""Calls on one connection in addition to `max_in_flight`: readers, watchers, and calls that are being refused."""

PROBE_CONNECTIONS = 64
"""Maximum number of connections to the port for probes."""

_log = structlog.get_logger("attributor")


async def serve(settings: AttributorSettings, announce: Callable[[str, str], None]) -> None:
    """Run until SIGTERM or SIGINT.

    announce: called with the address, and that of the metrics or "", once health is SERVING.
    Raises what wiring raises (ProfileMismatch, AlreadyHeld, MissingData), PreconditionFailed if it cannot listen, and
    LedgerFailed if the ledger's writer stopped: then the process has to end, and recovers at its next start.
    """
    # Early: a thread that has allocated keeps the arena that it was given.
    use_few_arenas()
    allow_connections(settings.max_connections)
    shutdown, forced = _shutdown_signals()
    failures: list[GmvaluatorError] = []
    loop = asyncio.get_running_loop()

    # Called from the threads of the models and of the ledger's writer.
    def on_failure(error: GmvaluatorError) -> None:
        failures.append(error)
        loop.call_soon_threadsafe(shutdown.set)

    gate = CallGate(Admission(settings.max_in_flight, settings.max_pixels_in_flight))
    authenticator = load_authenticator(settings)
    credentials = tls_credentials(settings)
    metrics = f"{settings.metrics.rpartition(':')[0]}:{serve_metrics(settings.metrics)}" if settings.metrics else ""
    server, health_servicer, address = await listen(settings, gate, shutdown, authenticator, credentials)
    async with serve_probes(settings.health, health_servicer):
        # In a thread, so that health and liveness are answered while the models load.
        wiring = asyncio.create_task(asyncio.to_thread(wire, settings, on_failure))
        try:
            parts = await _unless_shut_down(wiring, shutdown)
            if parts is not None:
                await _serve_until(
                    shutdown, forced, settings, gate, parts, health_servicer, lambda: announce(address, metrics)
                )
        finally:
            # The server first: calls that it cuts off still use the parts.
            await server.stop(0 if forced.is_set() else LAST_STAGE_S)
            if not wiring.cancelled() and wiring.done() and wiring.exception() is None:
                await wiring.result().close()
    if failures:
        raise failures[0]


async def _serve_until(
    shutdown: asyncio.Event,
    forced: asyncio.Event,
    settings: AttributorSettings,
    gate: CallGate,
    parts: Parts,
    health_servicer: HealthServicer,
    announce: Callable[[], None],
) -> None:
    # A missing or wrong index ends the start here, before health is SERVING.
    _log.info("starting", step="opening the index of every generator")
    await parts.check_collections()
    REGISTRY.register(RuntimeCollector(lambda: _runtime_state(gate, parts)))
    REGISTRY.register(file_metrics(settings))
    gate.open(Backends(parts.pipeline, parts.ledger, parts.catalogue, parts.disputes))
    # All that exists now stays: the garbage collector then looks at the objects of requests only.
    gc.collect()
    gc.freeze()
    set_health(health_servicer, health_pb2.HealthCheckResponse.SERVING)
    announce()
    async with (
        background_task(measure_loop_lag()),
        background_task(give_back_growth()),
        background_task(poll_collections(parts.check_collections)),
    ):
        await shutdown.wait()
        drained = await drain(gate, health_servicer, settings.drain_s, forced)
    _log.info("stopping", drained=drained, in_flight=gate.in_flight)


def _runtime_state(gate: CallGate, parts: Parts) -> RuntimeState:
    worker, decoder = parts.pipeline.worker, parts.decoder
    return RuntimeState(
        in_flight=gate.in_flight,
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
    gate: CallGate,
    shutdown: asyncio.Event,
    authenticator: Authenticator,
    credentials: grpc.ServerCredentials | None,
) -> tuple[grpc.aio.Server, HealthServicer, str]:
    """Start the server; return it, its health, which is NOT_SERVING, and its address.

    Raises PreconditionFailed if the address cannot be listened on.
    """
    calls = settings.max_in_flight + SPARE_CALLS
    # No maximum_concurrent_rpcs: it would count every call alike, and the first to come would keep the others out.
    server = grpc.aio.server(
        interceptors=[
            Authentication(authenticator),
            MessageInterceptor(WaitingCalls(max_callers=calls, max_watches=settings.max_connections)),
        ],
        options=[
            *_connection_options(settings.max_connections),
            ("grpc.max_receive_message_length", settings.max_message_bytes),
            ("grpc.max_concurrent_streams", calls),
        ],
    )
    health_servicer = HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    add_AttributionServiceServicer_to_server(AttributionServicer(gate, shutdown), server)
    add_RoyaltyServiceServicer_to_server(RoyaltyServicer(gate, shutdown), server)
    if settings.reflection or (settings.reflection is None and authenticator.anonymous_allowed and credentials is None):
        reflection.enable_server_reflection((*SERVICES[1:], reflection.SERVICE_NAME, health.SERVICE_NAME), server)
    set_health(health_servicer, health_pb2.HealthCheckResponse.NOT_SERVING)
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
    return server, health_servicer, f"{settings.address.rpartition(':')[0]}:{port}"


def _connection_options(max_connections: int) -> list[tuple[str, int]]:
    """Return the channel options of a port that bound its connections."""
    return [
        # Otherwise a second attributor could bind the same port, and the kernel would divide connections.
        ("grpc.so_reuseport", 0),
        ("grpc.max_allowed_incoming_connections", max_connections),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
        ("grpc.max_connection_idle_ms", IDLE_MS),
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ]


def load_authenticator(settings: AttributorSettings) -> Authenticator:
    """Load the tokens.

    Raises PreconditionFailed if other machines can reach the address without a token, or with one in the clear.
    """
    authenticator = listening.load_authenticator(
        settings.tokens_file,
        settings.address,
        required=settings.tokens is not None,
        insecure=settings.insecure,
        on_problem=lambda problem: _log.error("tokens", problem=problem),
        role="generator",
        right="do everything",
    )
    if settings.tls_cert is None and not settings.insecure and not is_loopback(settings.address):
        raise PreconditionFailed(
            f"{settings.address} can be reached from other machines and tokens would go there in the clear: give "
            "--tls-cert and --tls-key, or say --insecure if something else encrypts"
        )
    return authenticator


def tls_credentials(settings: AttributorSettings) -> grpc.ServerCredentials | None:
    """Return the credentials of the port; None without TLS. Raises PreconditionFailed or InvalidInput."""
    if settings.tls_cert is None or settings.tls_key is None:
        if settings.tls_cert or settings.tls_key or settings.client_ca:
            raise InvalidInput("--tls-cert and --tls-key go together, and --client-ca with both")
        return None
    files = TlsFiles(settings.tls_cert, settings.tls_key, settings.client_ca)
    return files.credentials(lambda problem: _log.error("tls", problem=problem))


@asynccontextmanager
async def serve_probes(address: str, health_servicer: HealthServicer) -> AsyncGenerator[int, None]:
    """Serve grpc.health.v1 alone at `address` within the block, and yield the port; an empty address opens none.

    The port is without TLS, which the gRPC probes of Kubernetes do not support. Raises PreconditionFailed if the
    address cannot be listened on.
    """
    health_servicer.set(LIVENESS, health_pb2.HealthCheckResponse.SERVING)
    if not address:
        yield 0
        return
    waiting = WaitingCalls(max_callers=1, max_watches=PROBE_CONNECTIONS)
    server = grpc.aio.server(
        interceptors=[MessageInterceptor(waiting)],
        options=[*_connection_options(PROBE_CONNECTIONS), ("grpc.max_concurrent_streams", MAX_CONNECTION_CALLS)],
    )
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise PreconditionFailed(f"health cannot be answered on {address}: is another program there?") from error
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0)


def set_health(health_servicer: HealthServicer, status: int) -> None:
    """Set the status of all `SERVICES`."""
    for name in SERVICES:
        health_servicer.set(name, status)


def _shutdown_signals() -> tuple[asyncio.Event, asyncio.Event]:
    """Return two events: the first SIGTERM or SIGINT sets the first one, and any later signal the second one."""
    shutdown, forced = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (forced if shutdown.is_set() else shutdown).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    return shutdown, forced


async def _unless_shut_down(wiring: asyncio.Task[Parts], shutdown: asyncio.Event) -> Parts | None:
    """Return the parts, or None if a signal came first; loading cannot be interrupted, so it is awaited anyway."""
    stopped = asyncio.create_task(shutdown.wait())
    await asyncio.wait({wiring, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if shutdown.is_set():
        with contextlib.suppress(GmvaluatorError):
            await wiring
        return None
    return await wiring


async def drain(
    gate: CallGate,
    health_servicer: HealthServicer,
    drain_s: float,
    forced: asyncio.Event | None = None,
) -> bool:
    """Set health to NOT_SERVING, refuse new calls, and wait for those in flight.

    Return False if some are left after `drain_s`, or when `forced` is set.
    """
    set_health(health_servicer, health_pb2.HealthCheckResponse.NOT_SERVING)
    gate.close()
    waits = [asyncio.ensure_future(event.wait()) for event in (gate.idle, forced) if event is not None]
    await asyncio.wait(waits, timeout=drain_s, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    return gate.idle.is_set()
