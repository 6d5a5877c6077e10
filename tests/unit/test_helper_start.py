"""Helpers that do not come up, and frames that do not get through."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from supervisor.host import interpreters
from supervisor.ipc import channel
from supervisor.ipc.channel import HelperChannel, HelperFailed
from workers import protocol


def test_one_that_is_not_ready_in_time_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would keep a thread of the pool that starts need, too."""
    stuck: list[int] = []

    def spawn(module: str, argument: str, stdout: int, folder: str) -> int:
        process = subprocess.Popen(["sleep", "20"], stdout=stdout)
        process.returncode = 0  # the test waits for it
        stuck.append(process.pid)
        return process.pid

    monkeypatch.setattr(interpreters, "spawn", spawn)
    monkeypatch.setattr(channel, "START_SECONDS", 0.1)

    async def main() -> None:
        helper = HelperChannel("relay", f"{tmp_path}/relay.sock", lambda frame: None, lambda: None)
        for _ in range(2):
            with pytest.raises(HelperFailed, match="not ready within"):
                await helper.connect()
        assert helper.pid == 0

    before = threading.active_count()
    asyncio.run(main())
    assert [os.WTERMSIG(os.waitpid(pid, 0)[1]) for pid in stuck] == [signal.SIGKILL] * 2
    assert threading.active_count() == before


def test_a_frame_that_the_kernel_has_no_memory_for_ends_the_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stayed in the queue, and was sent with the next one: with what had the numbers of its descriptors by then."""

    def refuse(*arguments: object) -> int:
        raise OSError(errno.ENOBUFS, "no buffer space")

    async def main() -> None:
        lost: list[str] = []
        helper = HelperChannel("relay", f"{tmp_path}/relay.sock", lambda frame: None, lambda: lost.append("lost"))
        with socket.socket(socket.AF_UNIX) as listener, open("/dev/null") as file:
            listener.bind(f"{tmp_path}/relay.sock")
            listener.listen()
            assert helper.join()
            peer, _ = listener.accept()
            with peer:
                with monkeypatch.context() as patched:
                    patched.setattr(socket.socket, "sendmsg", refuse)
                    helper.send(protocol.START, b"first", [file.fileno()])
                helper.send(protocol.START, b"second", [file.fileno()])
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                assert (lost, helper.connected) == (["lost"], False)
                assert peer.recv(100) == b""

    asyncio.run(main())
