"""The Sandbox API over gRPC. Messages are decoded by dialect, so gRPC itself carries plain bytes."""

from __future__ import annotations

import logging
from typing import Any

import grpc
import grpc.aio

from . import calls, dialects, status
from .dialects.dialect import Host

log = logging.getLogger(__name__)

_SERVICE = "/containerd.services.sandbox.v1.Controller/"
_NAMESPACE_KEY = "containerd-namespace"
_GRPC_CODES = {code.value[0]: code for code in grpc.StatusCode}


class _Router(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """Finds the method for a path; grpc.aio calls it for every request."""

    def __init__(self, host: Host) -> None:
        self._methods = {
            _SERVICE + name: grpc.unary_unary_rpc_method_handler(_behaviour(host, name)) for name in dialects.METHODS
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return self._methods.get(handler_call_details.method)


def _behaviour(host: Host, name: str) -> Any:
    async def serve(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        metadata = context.invocation_metadata() or ()
        namespace = next((str(value) for key, value in metadata if key == _NAMESPACE_KEY), "")

        async def call(namespace: str, payload: bytes) -> bytes:
            return await dialects.speaking(name, payload)(host, namespace, payload)

        try:
            return await calls.run(name, call, namespace or calls.DEFAULT_NAMESPACE, request)
        except Exception as error:
            code, message = status.of(error, name)
        await context.abort(_GRPC_CODES[code], message)

    return serve


def server(host: Host) -> grpc.aio.Server:
    """A server of the Sandbox API, without an address yet."""
    # The messages of ttrpc's bound apply here too: one size for both.
    options = [("grpc.max_receive_message_length", 4 << 20)]
    made = grpc.aio.server(options=options)
    made.add_generic_rpc_handlers((_Router(host),))
    return made
