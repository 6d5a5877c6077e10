"""The clients of the throughput section, in a process of their own: ``python -m tests.bench.load``, a JSON on stdin.

One thread serves them all, with a connection each, and each does one thing after another: Create, Start, Wait,
Delete. A thread for each would measure how Python's threads fight for their lock.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
import time
from dataclasses import dataclass, field

from sandbox_api.proto import task_pb2 as pb
from sandbox_api.proto import ttrpc_pb2
from sandbox_api.ttrpc import frames

SERVICE = "containerd.task.v3.Task"
STEPS = ("Create", "Start", "Wait", "Delete")


@dataclass(frozen=True, slots=True)
class Order:
    """Work: a client for each bundle."""

    socket: str
    namespace: str
    bundles: list[str]
    seconds: float
    prefix: str
    """Prefix of containers' ids."""


@dataclass(slots=True)
class Client:
    """One connection, and how far its container has come."""

    order: Order
    number: int
    bundle: str
    sock: socket.socket = field(default_factory=lambda: socket.socket(socket.AF_UNIX))
    decoder: frames.Decoder = field(default_factory=frames.Decoder)
    lives: int = 0
    step: int = 0
    stream: int = -1

    def send(self) -> None:
        """Send the request of this step."""
        task = f"{self.order.prefix}-{self.number}-{self.lives}"
        match STEPS[self.step]:
            case "Create":
                payload = pb.CreateTaskRequest(id=task, bundle=self.bundle).SerializeToString()
            case "Start":
                payload = pb.StartRequest(id=task).SerializeToString()
            case "Wait":
                payload = pb.WaitRequest(id=task).SerializeToString()
            case _:
                payload = pb.DeleteRequest(id=task).SerializeToString()
        message = ttrpc_pb2.Request(service=SERVICE, method=STEPS[self.step], payload=payload)
        message.metadata.add(key="containerd-namespace-ttrpc", value=self.order.namespace)
        self.stream += 2
        self.sock.sendall(frames.encode(self.stream, frames.REQUEST, message.SerializeToString()))

    def receive(self) -> bool:
        """Take what has arrived; whether it ends a life. Raises ``RuntimeError`` where something failed."""
        data = self.sock.recv(1 << 16)
        if not data:
            raise RuntimeError("the sandboxer hung up")
        for frame in self.decoder.feed(data):
            response = ttrpc_pb2.Response.FromString(frame.message)
            if response.status.code:
                raise RuntimeError(f"{STEPS[self.step]}: {response.status.message}")
            if STEPS[self.step] == "Wait" and (status := pb.WaitResponse.FromString(response.payload).exit_status):
                raise RuntimeError(f"a container ended with status {status}")
            self.step = (self.step + 1) % len(STEPS)
            if self.step == 0:
                self.lives += 1
                return True
            self.send()
        return False


def run(order: Order) -> float:
    """Lifecycles a second: whole ones within the time, which begins when every client is under way."""
    with selectors.DefaultSelector() as selector:
        clients = [Client(order, number, bundle) for number, bundle in enumerate(order.bundles)]
        for client in clients:
            client.sock.connect(order.socket)
            selector.register(client.sock, selectors.EVENT_READ, client)
            client.send()
        busy, done = len(clients), 0
        begun = last = time.perf_counter()
        end = begun + order.seconds
        while busy:
            for key, _ in selector.select():
                client = key.data
                if not client.receive():
                    continue
                now = time.perf_counter()
                if now <= end:
                    done += 1
                    last = now
                    client.send()
                else:
                    busy -= 1
        for client in clients:
            client.sock.close()
    return done / (last - begun) if done else 0.0


if __name__ == "__main__":
    print(run(Order(**json.load(sys.stdin))))
