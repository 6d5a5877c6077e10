"""gRPC servers. Methods decode their own messages, so gRPC itself carries plain bytes."""

from __future__ import annotations

import logging
from collections.abc import Coroutine, Mapping
from typing import Any

import grpc
import grpc.aio

from . import calls, dialects, status
from .dialects.dialect import Host

log = logging.getLogger(__name__)

SANDBOX_SERVICE = "containerd.services.sandbox.v1.Controller"
NAMESPACE_KEY = "containerd-namespace"
_CODES = {code.value[0]: code for code in grpc.StatusCode}

Methods = Mapping[tuple[str, str], calls.Handler]
"""Handlers by service and method name."""


class _Router(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """Finds the method for a path; grpc.aio asks it for every request."""

    def __init__(self, methods: Methods) -> None:
        self._methods = {
            f"/{service}/{name}": grpc.unary_unary_rpc_method_handler(_behaviour(name, handler))
            for (service, name), handler in methods.items()
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return self._methods.get(handler_call_details.method)


def _behaviour(name: str, handler: calls.Handler) -> Any:
    async def serve(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        try:
            return await calls.run(name, handler, _namespace(context), request)
        except Exception as error:
            code, message = status.of(error, name)
        await context.abort(_CODES[code], message)

    return serve


def _namespace(context: grpc.aio.ServicerContext[bytes, bytes]) -> str:
    metadata = context.invocation_metadata() or ()
    return next((str(value) for key, value in metadata if key == NAMESPACE_KEY), "") or calls.DEFAULT_NAMESPACE


def sandbox_methods(host: Host) -> Methods:
    """The Sandbox API in every dialect, told apart request by request."""

    def method(name: str) -> calls.Handler:
        def call(namespace: str, payload: bytes) -> Coroutine[Any, Any, bytes]:
            return dialects.speaking(name, payload)(host, namespace, payload)

        return call

    return {(SANDBOX_SERVICE, name): method(name) for name in dialects.METHODS}


def server(methods: Methods) -> grpc.aio.Server:
    """A server of these methods, without an address yet."""
    # ttrpc's bound on a message is this one's, too.
    made = grpc.aio.server(options=[("grpc.max_receive_message_length", 4 << 20)])
    made.add_generic_rpc_handlers((_Router(methods),))
    return made
