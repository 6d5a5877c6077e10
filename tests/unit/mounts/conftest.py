"""A bundle to mount things in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.host import linux
from supervisor.oci import mount_tree

from ..leaks import nothing_left_open
from .mounting import take_down


@pytest.fixture(params=["detached", "bench"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A bundle's folder with ``rootfs``, and ``host`` with what may be mounted in it. No mount is left in it."""
    for path in ("rootfs/etc", "host/folder/deep"):
        (tmp_path / path).mkdir(parents=True)
    for path in ("host/file", "host/folder/inside"):
        (tmp_path / path).write_text(path)
    mount_tree.prepare(str(tmp_path / "mounting"))
    direct = request.param == "detached" and linux.mounts_on_detached()
    monkeypatch.setattr(linux, "mounts_on_detached", lambda: direct)
    with nothing_left_open():
        yield tmp_path
        assert os.listdir(tmp_path / "mounting/bench") == []
        assert take_down(tmp_path) == []
