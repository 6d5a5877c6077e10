"""A file is read once for its digest, and again when it may have changed."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from supervisor.aot import digests as digests_module
from supervisor.aot import identity as identity_module
from supervisor.aot.digests import Digests
from supervisor.aot.identity import Identifier

SMALL = b"\0asm\1\0\0\0" + b"small"
LARGE = b"\0asm\1\0\0\0" + b"large" * 100_000


class Reads:
    """Digests that are wanted of files, and how often a file was read for them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self._digests = Digests(ThreadPoolExecutor(2))
        hash_ = digests_module._hash

        def counted(module: int) -> str | None:
            self.count += 1
            return hash_(module)

        monkeypatch.setattr(digests_module, "_hash", counted)

    async def of(self, path: Path) -> str | None:
        fd = os.open(path, os.O_RDONLY)
        try:
            return await self._digests.of(fd)
        finally:
            os.close(fd)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(monkeypatch)


def settled(path: Path, content: bytes) -> Path:
    """A file that was written long enough ago."""
    path.write_bytes(content)
    time.sleep(identity_module.SETTLED_NS / 1e9 + 0.02)  # it is the file system's clock that has to move on
    return path


@pytest.mark.parametrize("content", [SMALL, LARGE])
def test_a_file_is_read_once(tmp_path: Path, reads: Reads, content: bytes) -> None:
    path = settled(tmp_path / "a.wasm", content)

    async def check() -> None:
        for _ in range(3):
            assert await reads.of(path) == hashlib.sha256(content).hexdigest()

    asyncio.run(check())
    assert reads.count == 1


def test_ten_at_once_read_it_once(tmp_path: Path, reads: Reads) -> None:
    path = settled(tmp_path / "a.wasm", LARGE)

    async def check() -> None:
        found = await asyncio.gather(*(reads.of(path) for _ in range(10)))
        assert set(found) == {hashlib.sha256(LARGE).hexdigest()}

    asyncio.run(check())
    assert reads.count == 1


def in_place(path: Path, content: bytes) -> None:
    with path.open("r+b") as file:
        file.write(content)


def by_rename(path: Path, content: bytes) -> None:
    path.with_suffix(".new").write_bytes(content)
    path.with_suffix(".new").rename(path)


def in_place_and_time_set_back(path: Path, content: bytes) -> None:
    status = path.stat()
    in_place(path, content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("change", [in_place, by_rename, in_place_and_time_set_back], ids=lambda each: each.__name__)
def test_a_changed_file_of_the_same_size_is_read_again(
    tmp_path: Path, reads: Reads, change: Callable[[Path, bytes], None]
) -> None:
    path = settled(tmp_path / "a.wasm", SMALL)
    other = SMALL[:-1] + b"X"

    async def check() -> None:
        assert await reads.of(path) == hashlib.sha256(SMALL).hexdigest()
        change(path, other)
        assert await reads.of(path) == hashlib.sha256(other).hexdigest()

    asyncio.run(check())


def test_a_file_written_just_now_is_not_trusted_to_stay(tmp_path: Path, reads: Reads) -> None:
    path = tmp_path / "a.wasm"
    path.write_bytes(SMALL)

    async def check() -> None:
        await reads.of(path)
        await reads.of(path)

    asyncio.run(check())
    assert reads.count == 2


@pytest.mark.parametrize("content", [b"", b"\0asm", b"\x7fELF" + bytes(100), b"\0asm\x0d\0\2\0" + bytes(100)])
def test_other_files_than_modules_have_no_digest(tmp_path: Path, reads: Reads, content: bytes) -> None:
    path = settled(tmp_path / "a.wasm", content)
    assert asyncio.run(reads.of(path)) is None
    assert reads.count == 0


def test_modules_that_are_too_large_are_not_read(tmp_path: Path, reads: Reads) -> None:
    path = tmp_path / "a.wasm"
    path.write_bytes(SMALL)
    os.truncate(path, 1 << 40)  # a hole
    assert asyncio.run(reads.of(path)) is None
    assert reads.count == 0


def test_only_what_is_remembered_takes_memory(tmp_path: Path, reads: Reads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests_module, "REMEMBERED", 2)
    paths = [settled(tmp_path / f"{number}.wasm", SMALL) for number in range(3)]

    async def check() -> None:
        for path in (*paths, paths[1], paths[2], paths[0]):
            await reads.of(path)

    asyncio.run(check())
    assert reads.count == 4


def identity(path: Path) -> object:
    fd = os.open(path, os.O_RDONLY)
    try:
        return Identifier().of(fd)
    finally:
        os.close(fd)


@pytest.fixture
def overlay(tmp_path: Path) -> Path:
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    (tmp_path / "lower" / "a.wasm").write_bytes(SMALL)
    return tmp_path / "merged"


def mounted(overlay: Path) -> object:
    """The file's identity in a mount of its own."""
    home = overlay.parent
    options = f"lowerdir={home}/lower,upperdir={home}/upper,workdir={home}/work"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, str(overlay)], check=True)
    try:
        assert identity(overlay / "a.wasm") == identity(overlay / "a.wasm")
        return identity(overlay / "a.wasm")
    finally:
        subprocess.run(["umount", str(overlay)], check=True)


def test_an_image_file_is_known_within_its_mount_only(overlay: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Device numbers are used again, and an image says what it likes about times."""
    first, second = mounted(overlay), mounted(overlay)
    if first is not None:  # Linux 6.8
        assert first != second
    monkeypatch.setattr(identity_module, "_MNT_ID_UNIQUE", 1 << 30)  # as an older kernel does not know it
    assert mounted(overlay) is None
