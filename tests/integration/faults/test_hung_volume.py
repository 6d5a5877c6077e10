"""A volume whose server is gone: its own containers fail, with a reason, and nobody else waits."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from sandbox_api.errors import Unavailable

from ...harness import fuse
from ...harness.container import Pod
from ...harness.daemon import Daemon


def test_a_volume_whose_server_is_gone_holds_up_nobody_else(daemon: Daemon, pod: Pod, tmp_path: Path) -> None:
    folder = tmp_path / "volume" / "folder"
    folder.mkdir(parents=True)
    container = pod.with_wasm("hello").mount("/data", folder).build()
    late = pod.with_wasm("hello").mount("/data", folder)
    failed: list[str] = []

    def fails(call: object) -> None:
        with pytest.raises(Unavailable) as raised:
            call()  # type: ignore[operator]
        failed.append(str(raised.value))

    with fuse.silent(folder.parent):
        threads = [threading.Thread(target=fails, args=(call,)) for call in (container.start, late.build)]
        for thread in threads:
            thread.start()
        for _ in range(10):
            other = pod.with_wasm("exit").args("3").build().start()
            assert other.wait() == 3
            other.delete()
        assert failed == []  # both still wait
        for thread in threads:
            thread.join(30)
    assert len(failed) == 2
    assert all(f"{folder}: its file system has not answered" in each for each in failed)
    assert container.start().wait() == 0
    late.build().delete()
