"""Images are asked for by starts, which go on where the forkserver has no descriptor left for one."""

from __future__ import annotations

import errno
import os
import posix
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from workers.image_protocol import ImageRequest
from workers.images.cache import ImageCache
from workers.images.initialization import Initialization
from workers.start_request import WASMEDGE, Preopen, StartRequest
from workers.templates import ImageMaker

from .leaks import nothing_left_open

REQUEST = ImageRequest(b"0" * 64, WASMEDGE, b"_start", 0)


def full(times: int, call: Callable[..., Any]) -> Callable[..., Any]:
    """A call that works so often, and then finds no room."""
    left = iter(range(times))

    def limited(*arguments: Any) -> Any:
        if next(left, None) is None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return call(*arguments)

    return limited


def maker(zygote: Any) -> ImageMaker:
    cache = ImageCache(lambda report: None)
    cache.limit(1 << 30)
    engine: Any = SimpleNamespace(images=True, ready=True)
    return ImageMaker(cache, {WASMEDGE: zygote}, {WASMEDGE: engine}, b"")


@pytest.mark.parametrize("room", [0, 1, 2])
def test_without_a_descriptor_there_is_no_image_and_nothing_is_left_open(
    room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [os.open(tmp_path, os.O_PATH) for _ in range(2)]
    product = os.open(os.devnull, os.O_RDONLY)
    preopens = [Preopen(b"/%d" % i, True) for i in range(2)]
    before = Initialization(StartRequest(instance=1, preopens=preopens, initialize=b"boot"), folders)
    images = maker(SimpleNamespace(roots=1))
    with nothing_left_open():
        with monkeypatch.context() as patch:
            patch.setattr(posix, "dup", full(room, os.dup))
            images.want(REQUEST, product, before)
        images.forget_waiting()
    for fd in (*folders, product):
        os.close(fd)


def test_a_template_without_a_pipe_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = SimpleNamespace(libc=lambda *_, **__: None)
    images = maker(SimpleNamespace(roots=1, calls=lambda: calls))
    monkeypatch.setattr("workers.worker.build_template", lambda *_: 0)
    monkeypatch.setattr(posix, "pipe2", full(0, os.pipe2))
    images.confinement = SimpleNamespace()  # type: ignore[assignment]
    product = os.open(os.devnull, os.O_RDONLY)
    with nothing_left_open():
        images.want(REQUEST, product)
    os.close(product)
