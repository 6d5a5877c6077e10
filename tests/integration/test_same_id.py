"""Calls for one container that come together: each finds it as the one before left it."""

from __future__ import annotations

import pytest

from sandbox_api.errors import NotFound
from sandbox_api.proto import task_pb2 as pb

from ..harness.container import Pod


def test_what_waited_for_a_delete_touches_nothing(pod: Pod) -> None:
    """A container with a tmpfs: its Delete waits for the unmount, and the others for its Delete."""
    builder = pod.with_wasm("sleep").args("1000").mount("/scratch", kind="tmpfs")
    container = builder.build()
    connection, workers = container.connection, len(pod.daemon.workers())
    deleted = connection.send("Delete", pb.DeleteRequest(id=container.id))
    late = [
        ("Start", pb.StartRequest(id=container.id)),
        ("Delete", pb.DeleteRequest(id=container.id)),
        ("Update", pb.UpdateTaskRequest(id=container.id)),
    ]
    waiting = [(connection.send(method, request), method) for method, request in late]
    connection.receive(deleted, "Delete")
    for stream, method in waiting:
        with pytest.raises(NotFound, match=container.id):
            connection.receive(stream, method)
    assert len(pod.daemon.workers()) == workers
    again = builder.build().start()
    assert again.status() == "RUNNING"
