"""A proxy between a client and an index that does to calls what networks and broken servers do."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc

from gmvaluator.index.location import Endpoint

Forward = Callable[[], bytes]
Fault = Callable[[str, grpc.ServicerContext, Forward], bytes]
"""Given the call's name, its context and what makes the call itself: the answer's bytes."""


def _plainly(_name: str, _context: grpc.ServicerContext, forward: Forward) -> bytes:
    return forward()


class FaultProxy(grpc.GenericRpcHandler):
    """Forwards every call by way of `fault`. calls: how often each came, by its last name."""

    def __init__(self, upstream: Endpoint) -> None:
        self.fault: Fault = _plainly
        self.calls: Counter[str] = Counter()
        self.released = threading.Event()
        self._channel = grpc.insecure_channel(upstream.target, list(upstream.channel_options.items()))
        self._server = grpc.server(ThreadPoolExecutor(16), handlers=[self], options=[("grpc.so_reuseport", 0)])
        self.endpoint = Endpoint("127.0.0.1", self._server.add_insecure_port("127.0.0.1:0"), False, upstream.api_key)
        self._server.start()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        method = str(details.method)

        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            name = method.rpartition("/")[2]
            self.calls[name] += 1
            return self.fault(name, context, lambda: self._forwarded(method, request, context))

        return grpc.unary_unary_rpc_method_handler(answer)

    def _forwarded(self, method: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(method)
        metadata = tuple((key, value) for key, value in context.invocation_metadata() if key == "api-key")
        try:
            return call(request, timeout=30, metadata=metadata)
        except grpc.RpcError as error:
            context.abort(error.code(), error.details() or "")

    def close(self) -> None:
        self.released.set()
        self._server.stop(0).wait()
        self._channel.close()


def failing(times: int, code: grpc.StatusCode, only: str, after: bool = False) -> Fault:
    """The first `times` calls named `only` end with `code`; after: once they have been made."""
    left = [times]

    def fault(name: str, context: grpc.ServicerContext, forward: Forward) -> bytes:
        fails = name == only and left[0] > 0
        answer = b"" if fails and not after else forward()
        if fails:
            left[0] -= 1
            context.abort(code, "as the proxy was told")
        return answer

    return fault


def changing(times: int, changes: Mapping[str, tuple[Any, Callable[[Any], None]]]) -> Fault:
    """The first `times` answers to calls named in `changes` are changed; a name leads to message type and change."""
    left = [times]

    def fault(name: str, _context: grpc.ServicerContext, forward: Forward) -> bytes:
        answer = forward()
        if name not in changes or left[0] == 0:
            return answer
        left[0] -= 1
        kind, change = changes[name]
        message = kind.FromString(answer)
        change(message)
        return bytes(message.SerializeToString())

    return fault


class CuttingProxy:
    """Forwards bytes, and cuts the first `cuts` connections once so many bytes have come back on them."""

    def __init__(self, upstream: Endpoint, cuts: int, after_bytes: int) -> None:
        self.cut = 0
        self._upstream, self._cuts, self._after_bytes = upstream, cuts, after_bytes
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.endpoint = Endpoint("127.0.0.1", self._listening.getsockname()[1], False, upstream.api_key)
        self._ended = False
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            server = _connected(self._upstream)
            self._open += [client, server]
            budget = self._after_bytes if self.cut < self._cuts else None
            for source, target, limit in ((client, server, None), (server, client, budget)):
                thread = threading.Thread(target=self._copy, args=(source, target, limit))
                self._threads.append(thread)
                thread.start()

    def _copy(self, source: socket.socket, target: socket.socket, limit: int | None) -> None:
        seen = 0
        try:
            while data := source.recv(4096):
                seen += len(data)
                if limit is not None and seen > limit:
                    self.cut += 1
                    break
                target.sendall(data)
        except OSError:
            pass  # the other side has gone, which is what this proxy is for
        for one in (source, target):
            _shut(one)

    def close(self) -> None:
        _shut(self._listening)
        for one in self._open:
            _shut(one)
        for thread in self._threads:
            thread.join()
        for one in (self._listening, *self._open):
            one.close()


def _connected(upstream: Endpoint) -> socket.socket:
    if isinstance(upstream.port, int):
        return socket.create_connection((upstream.host, upstream.port))
    server = socket.socket(socket.AF_UNIX)
    server.connect(upstream.port)
    return server


def _shut(one: socket.socket) -> None:
    try:
        one.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it is closed already


@contextmanager
def fault_proxy(upstream: Endpoint) -> Iterator[FaultProxy]:
    """A running one."""
    proxy = FaultProxy(upstream)
    try:
        yield proxy
    finally:
        proxy.close()


@contextmanager
def cutting_proxy(upstream: Endpoint, cuts: int, after_bytes: int) -> Iterator[CuttingProxy]:
    """A running one."""
    proxy = CuttingProxy(upstream, cuts, after_bytes)
    try:
        yield proxy
    finally:
        proxy.close()
