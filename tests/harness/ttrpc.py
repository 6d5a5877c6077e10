"""A blocking ttrpc client for tests: one call at a time on a connection of its own."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TypeVar

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from sandbox_api import status
from sandbox_api.proto import task_pb2 as pb
from sandbox_api.proto import ttrpc_pb2
from sandbox_api.ttrpc import frames

M = TypeVar("M", bound=Message)

ANSWERS: dict[str, type[Message]] = {
    name: getattr(pb, f"{name}Response") for name in ("State", "Start", "Delete", "Pids", "Wait", "Stats", "Connect")
} | {"Create": pb.CreateTaskResponse}


class Connection:
    """A connection to the Task API. ``send`` and ``receive`` may be used apart, to have calls in flight."""

    def __init__(self, path: Path, namespace: str = "default", timeout: float = 60) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(timeout)
        self.sock.connect(str(path))
        self._namespace = namespace
        self._stream = -1
        self._decoder = frames.Decoder()
        self._answers: dict[int, ttrpc_pb2.Response] = {}

    def call(self, method: str, request: Message, service: str = "containerd.task.v2.Task") -> Message:
        """The answer; raises what the status stands for."""
        return self.receive(self.send(method, request, service), method)

    def send(self, method: str, request: Message, service: str = "containerd.task.v2.Task") -> int:
        """Send a request; the stream on which the answer will come. Version 2: inputs end with their writers."""
        self._stream += 2
        message = ttrpc_pb2.Request(service=service, method=method, payload=request.SerializeToString())
        if self._namespace:
            message.metadata.add(key="containerd-namespace-ttrpc", value=self._namespace)
        self.sock.sendall(frames.encode(self._stream, frames.REQUEST, message.SerializeToString()))
        return self._stream

    def receive(self, stream: int, method: str) -> Message:
        """Wait for the answer on this stream."""
        response = self.response(stream)
        if response.status.code:
            raise status.error(response.status.code, response.status.message)
        return ANSWERS.get(method, Empty).FromString(response.payload)

    def response(self, stream: int) -> ttrpc_pb2.Response:
        """Wait for the raw answer on this stream. Raises ``EOFError`` when the server hangs up."""
        while stream not in self._answers:
            data = self.sock.recv(1 << 16)
            if not data:
                raise EOFError("the server hung up")
            for frame in self._decoder.feed(data):
                self._answers[frame.stream] = ttrpc_pb2.Response.FromString(frame.message)
        return self._answers.pop(stream)

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
