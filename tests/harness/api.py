"""The Sandbox API as a client sees it: gRPC with the messages of dialect v2."""

from __future__ import annotations

import time
from pathlib import Path

import grpc
from google.protobuf.message import Message

from sandbox_api import status
from sandbox_api.errors import Unavailable
from sandbox_api.proto import controller_pb2 as pb

SERVICE = "/containerd.services.sandbox.v1.Controller/"


class Api:
    """A channel to the Sandbox API. Errors come as the domain's."""

    def __init__(self, path: Path, namespace: str = "default") -> None:
        self.channel = grpc.insecure_channel(
            f"unix:{path}", [("grpc.use_local_subchannel_pool", 1)]
        )  # its own connection
        self._metadata = (("containerd-namespace", namespace),)

    def call(self, method: str, request: Message, timeout: float = 60) -> Message:
        """A call and its answer."""
        return self.future(method, request, timeout)()

    def future(self, method: str, request: Message, timeout: float = 60):  # type: ignore[no-untyped-def]
        """Begin a call; what is returned waits for the answer when it is called."""
        answer = getattr(pb, f"Controller{method}Response")
        stub = self.channel.unary_unary(
            SERVICE + method, lambda message: message.SerializeToString(), answer.FromString
        )
        pending = stub.future(request, timeout=timeout, metadata=self._metadata)

        def result() -> Message:
            try:
                return pending.result()
            except grpc.RpcError as error:
                raise status.error(error.code().value[0], error.details() or "") from None

        result.cancel = pending.cancel  # type: ignore[attr-defined]
        return result

    def raw(self, method: str, request: bytes) -> bytes:
        """A call in bytes."""
        return self.channel.unary_unary(SERVICE + method)(request, timeout=60, metadata=self._metadata)

    def create(self, sandbox_id: str, **fields: object) -> None:
        request = pb.ControllerCreateRequest(sandbox_id=sandbox_id, **fields)  # type: ignore[arg-type]
        request.sandbox.sandbox_id = sandbox_id
        self.call("Create", request)

    def start(self, sandbox_id: str) -> pb.ControllerStartResponse:
        return self.call("Start", pb.ControllerStartRequest(sandbox_id=sandbox_id))  # type: ignore[return-value]

    def stop(self, sandbox_id: str, timeout: int = 0) -> None:
        self.call("Stop", pb.ControllerStopRequest(sandbox_id=sandbox_id, timeout_secs=timeout))

    def wait(self, sandbox_id: str):  # type: ignore[no-untyped-def]
        return self.future("Wait", pb.ControllerWaitRequest(sandbox_id=sandbox_id))

    @staticmethod
    def status_request(sandbox_id: str) -> pb.ControllerStatusRequest:
        return pb.ControllerStatusRequest(sandbox_id=sandbox_id)

    def retried(self, method: str, request: Message, seconds: float = 20) -> Message:
        """A call, made again where its connection was lost."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                return self.call(method, request)
            except Unavailable:
                assert time.monotonic() < deadline, f"{method}: unavailable for {seconds:g} s"
                time.sleep(0.05)

    def status(self, sandbox_id: str, verbose: bool = False) -> pb.ControllerStatusResponse:
        return self.call("Status", pb.ControllerStatusRequest(sandbox_id=sandbox_id, verbose=verbose))  # type: ignore[return-value]

    def shutdown(self, sandbox_id: str) -> None:
        self.call("Shutdown", pb.ControllerShutdownRequest(sandbox_id=sandbox_id))

    def close(self) -> None:
        self.channel.close()
