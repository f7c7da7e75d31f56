"""Every call passes here before its message is read: who calls, and may they?"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import grpc
import structlog

from attributor.metrics import observe_refusal
from gmvaluator.auth import PUBLIC, Caller, Door, bearer_token, check_call
from gmvaluator.errors import GmvaluatorError, Unauthenticated, status_of

_AUTHORIZATION = "authorization"
_calling: ContextVar[Caller] = ContextVar("caller")
_log = structlog.get_logger("attributor")


def current_caller() -> Caller:
    """Who made the call that is being answered. Raises Unauthenticated if the server has no `Authentication`."""
    try:
        return _calling.get()
    except LookupError:
        raise Unauthenticated("nobody was authenticated: give the server the Authentication interceptor") from None


class Authentication(grpc.aio.ServerInterceptor):
    """Lets a call through if its token's role may make it; `current_caller` then says who it is."""

    def __init__(self, door: Door) -> None:
        self._door = door

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        method = handler_call_details.method
        if method in PUBLIC:
            return await continuation(handler_call_details)
        try:
            caller = self._door.caller(_token(handler_call_details))
            handler = await continuation(handler_call_details)
            if handler is None:
                # Unknown methods are answered UNIMPLEMENTED, once it is known who asks.
                return None
            check_call(caller, method)
        except GmvaluatorError as error:
            observe_refusal(error)
            _log.info("refused", method=method, error=str(error))
            return _refusal(grpc.StatusCode[status_of(error)], str(error))
        # grpc.aio answers a call in the task that runs its interceptors, so this is seen by the handler alone.
        _calling.set(caller)
        return handler


def _token(details: grpc.HandlerCallDetails) -> str | None:
    sent = [value for key, value in details.invocation_metadata or () if key == _AUTHORIZATION]
    if len(sent) > 1:
        raise Unauthenticated("several authorization headers were sent: send one")
    return bearer_token(str(sent[0])) if sent else None


def _refusal(code: grpc.StatusCode, message: str) -> Any:
    """A handler of any shape that answers this status alone, and reads no message."""

    async def refuse(messages: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:  # noqa: ARG001
        await context.abort(code, message)

    return grpc.stream_stream_rpc_method_handler(refuse)
