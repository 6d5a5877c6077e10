"""gRPC servers. Methods decode their own messages, so gRPC itself carries plain bytes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

import grpc
import grpc.aio

from . import calls, dialects, status
from .dialects.dialect import Host

log = logging.getLogger(__name__)

SANDBOX_SERVICE = "containerd.services.sandbox.v1.Controller"
NAMESPACE_KEY = "containerd-namespace"
_CODES = {code.value[0]: code for code in grpc.StatusCode}

STOP_SECONDS = 20.0
"""Seconds that calls under way may take to be answered once the server stops; less than systemd waits for us."""

SENT_SECONDS = 0.05
"""Time for gRPC to send its last answers: it does not tell when they are sent."""


class Server:
    """A server of these methods, on addresses that are given to ``inner``."""

    def __init__(self, methods: calls.Methods) -> None:
        # ttrpc's bound on a message is this one's, too.
        self.inner = grpc.aio.server(options=[("grpc.max_receive_message_length", 4 << 20)])
        self.inner.add_generic_rpc_handlers((_Router(methods, self),))
        self._answering: dict[asyncio.Task[Any], calls.Kind] = {}
        self._let_go_of: set[asyncio.Task[Any]] = set()
        self._stopping = False

    async def stop(self) -> None:
        """Stop taking calls. Those that only wait end with UNAVAILABLE, and clients will try again; others are
        answered, unless it takes them too long: then they, too, and go on.

        gRPC itself goes on until the process ends: its own way to stop ends calls that come in just then with
        CANCELLED, which no client tries again, and a connection that breaks ends them with UNAVAILABLE.
        """
        self._stopping = True
        self._let_go(only_waits=True)
        if self._answering:
            await asyncio.wait(list(self._answering), timeout=STOP_SECONDS)
        self._let_go(only_waits=False)
        await asyncio.sleep(SENT_SECONDS)

    def _let_go(self, only_waits: bool) -> None:
        for answering, kind in self._answering.items():
            if kind is calls.Kind.WAIT or not only_waits:
                self._let_go_of.add(answering)
                answering.cancel()

    def behaviour(self, method: calls.Method) -> Any:
        """Make the method's handler: one coroutine in gRPC's own task, since a pending Wait keeps all there is."""

        async def serve(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            ourselves = asyncio.current_task()
            assert ourselves is not None
            error: Exception
            try:
                if self._stopping:
                    raise calls.ending()
                self._answering[ourselves] = method.kind
                method.under_way += 1
                call = calls.run(method, _namespace(context), request)
                del request
                answer = await call
                method.answered[status.OK] += 1
                return answer
            except asyncio.CancelledError:
                if ourselves not in self._let_go_of or ourselves.uncancel():
                    raise  # the client has gone
                error = calls.ending()
            except Exception as failure:
                error = failure
            finally:
                if self._answering.pop(ourselves, None) is not None:
                    method.under_way -= 1
                self._let_go_of.discard(ourselves)
            method.count(error)
            code, message = status.of(error, method.name)
            method.answered[code] += 1
            await context.abort(_CODES[code], message)

        return serve


class _Router(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """Finds the method for a path; grpc.aio asks it for every request."""

    def __init__(self, methods: calls.Methods, server: Server) -> None:
        self._methods = {
            f"/{service}/{name}": grpc.unary_unary_rpc_method_handler(server.behaviour(method))
            for (service, name), method in methods.items()
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return self._methods.get(handler_call_details.method)


def _namespace(context: grpc.aio.ServicerContext[bytes, bytes]) -> str:
    metadata = context.invocation_metadata() or ()
    return next((str(value) for key, value in metadata if key == NAMESPACE_KEY), "")


def sandbox_methods(host: Host) -> calls.Methods:
    """The Sandbox API in every dialect, told apart request by request."""

    def handler(name: str) -> calls.Handler:
        def call(namespace: str, payload: bytes) -> Coroutine[Any, Any, bytes]:
            return dialects.speaking(name, payload)(host, namespace, payload)

        return call

    return {(SANDBOX_SERVICE, name): calls.Method(name, handler(name), kind) for name, kind in dialects.METHODS.items()}
