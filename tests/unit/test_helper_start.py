"""Helpers that do not come up."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from supervisor.host import interpreters
from supervisor.ipc import channel
from supervisor.ipc.channel import HelperChannel, HelperFailed


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
