"""The cache of compiled modules: what it takes for a product, and what it keeps."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor.aot import cache as cache_module
from supervisor.aot.cache import Cache, CacheUnusable, Unverified
from supervisor.aot.terms import LARGE, Failure, Level, Limits, Verdict

ENGINE = "0.14.1"
ONE, TWO, THREE, FOUR = (f"{number:064x}" for number in range(1, 5))
PRODUCT = b"\x7fELF" + bytes(range(256)) * 64
LIMITS = Limits(10, 1 << 30)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", 1 << 20, ENGINE)


def again(cache: Cache, engine: str = ENGINE) -> Cache:
    """The same folder, as the next sandboxer finds it."""
    return Cache(cache.folder.parent, 1 << 20, engine)


def install(cache: Cache, digest: str, level: Level = Level.O0, product: bytes = PRODUCT) -> Path:
    fd = os.memfd_create("product")
    os.write(fd, product)
    cache.install(digest, level, fd)
    os.close(fd)
    return cache.folder / f"{digest}.{level.name}.so"


def read(fd: int | None) -> bytes | None:
    if fd is None:
        return None
    with open(fd, "rb") as file:
        return file.read()


def test_products_are_found_again(cache: Cache) -> None:
    path = install(cache, ONE)
    content = read(cache.open(ONE, Level.O0))
    assert content is not None
    assert content.startswith(PRODUCT)
    assert cache.open(TWO, Level.O0) is None
    assert cache.open(ONE, Level.O2) is None
    status = path.stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (os.geteuid(), 0o444)
    assert [each.name for each in cache.folder.iterdir()] == [path.name]


def test_existing_products_are_read_before_use(cache: Cache) -> None:
    install(cache, ONE)
    after = again(cache)
    with pytest.raises(Unverified):
        after.open(ONE, Level.O0)
    assert read(after.verify(ONE, Level.O0)) is not None
    assert read(after.open(ONE, Level.O0)) is not None


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def cut_in_the_middle(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:500])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def one_bit_wrong(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[1000] ^= 4
    path.write_bytes(content)


def a_bit_of_the_footer_wrong(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(PRODUCT) + 40] ^= 4
    path.write_bytes(content)


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def foreign(path: Path) -> None:
    path.write_bytes(PRODUCT)


def writable_for_the_group(path: Path) -> None:
    path.chmod(0o664)


def writable_for_all(path: Path) -> None:
    path.chmod(0o446)


def of_another_owner(path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root gives files away")
    os.chown(path, 1000, 0)


def a_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGES = [
    truncated,
    cut_in_the_middle,
    emptied,
    one_bit_wrong,
    a_bit_of_the_footer_wrong,
    longer,
    foreign,
    writable_for_the_group,
    writable_for_all,
    of_another_owner,
    a_link,
    a_fifo,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_changed_products_are_removed(cache: Cache, damage: Callable[[Path], None]) -> None:
    path = install(cache, ONE)
    path.chmod(0o644)
    damage(path)
    for each in (cache, again(cache)):
        try:
            found = each.open(ONE, Level.O0)
        except Unverified:
            found = each.verify(ONE, Level.O0)
        assert found is None
    assert not os.path.lexists(path)


def test_a_product_is_of_one_module_level_engine_and_processor(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    path = install(cache, ONE)
    for digest, level in ((TWO, Level.O0), (ONE, Level.O2)):
        (cache.folder / f"{digest}.{level.name}.so").write_bytes(path.read_bytes())
        assert cache.verify(digest, level) is None
    assert again(cache, "0.14.2").open(ONE, Level.O0) is None
    monkeypatch.setattr(cache_module, "_CPU", ("vendor_id", "Features"))  # another processor has other lines
    other = again(cache)
    assert other.open(ONE, Level.O0) is None
    (other.folder / path.name).write_bytes(path.read_bytes())
    assert other.verify(ONE, Level.O0) is None


@pytest.mark.parametrize("product", [b"", b"\0asm\1\0\0\0", b"#!/bin/sh\n"])
def test_only_a_shared_object_is_a_product(cache: Cache, product: bytes) -> None:
    with pytest.raises(ValueError, match="not a shared object"):
        install(cache, ONE, product=product)
    assert list(cache.folder.iterdir()) == []


def test_the_better_product_takes_the_place_of_the_other(cache: Cache) -> None:
    install(cache, ONE, Level.O0)
    path = install(cache, ONE, Level.O2)
    assert list(cache.folder.iterdir()) == [path]
    install(cache, ONE, Level.O0)  # the other way round it stays
    assert path.exists()


def test_least_recently_used_goes_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 3 * (len(PRODUCT) + 200), ENGINE)
    paths = {digest: install(cache, digest) for digest in (ONE, TWO, THREE)}
    assert all(path.exists() for path in paths.values())
    os.close(cache.open(ONE, Level.O0) or -1)
    install(cache, FOUR)
    assert [digest for digest in paths if paths[digest].exists()] == [ONE, THREE]


def test_use_is_remembered_across_restarts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "TOUCH_SECONDS", 0)
    size = 3 * (len(PRODUCT) + 200)
    cache = Cache(tmp_path, size, ENGINE)
    paths = {digest: install(cache, digest) for digest in (ONE, TWO, THREE)}
    for path in paths.values():
        os.utime(path, (1, 1))
    used = Cache(tmp_path, size, ENGINE)
    os.close(used.verify(ONE, Level.O0) or -1)
    os.close(used.open(ONE, Level.O0) or -1)  # what its own note of the use changed does not make it strange
    install(Cache(tmp_path, size, ENGINE), FOUR)
    assert paths[ONE].exists()


def test_other_engines_products_count_and_go(tmp_path: Path) -> None:
    size = 2 * (len(PRODUCT) + 200)
    old = install(Cache(tmp_path, size, "0.14.0"), ONE)
    os.utime(old, (1, 1))
    new = Cache(tmp_path, size, ENGINE)
    install(new, ONE)
    assert old.exists()
    install(new, TWO)
    assert not old.exists()


def test_leftovers_of_a_killed_sandboxer_are_removed(cache: Cache) -> None:
    left = cache.folder / f"{ONE}.O0.so.1.part"
    left.write_bytes(b"half")
    young = cache.folder / f"{ONE}.O0.so.2.part"
    young.write_bytes(b"half")
    os.utime(left, (1, 1))
    install(cache, TWO)
    assert (left.exists(), young.exists()) == (False, True)


def test_products_larger_than_the_cache_are_refused(tmp_path: Path) -> None:
    cache = Cache(tmp_path, len(PRODUCT) - 1, ENGINE)
    with pytest.raises(ValueError, match="do not fit into the cache"):
        install(cache, ONE)


@pytest.mark.parametrize("verdict", [Verdict.CRASHED, Verdict.TIMED_OUT, Verdict.NO_MEMORY, Verdict.REFUSED])
def test_a_failure_is_remembered_for_module_and_level(cache: Cache, verdict: Verdict) -> None:
    cache.fail(ONE, Level.O2, Failure(verdict, "because", LIMITS))
    for each in (cache, again(cache)):
        failure = each.failure(ONE, Level.O2, LIMITS)
        assert failure is not None
        assert str(failure) == f"{verdict}: because"
        assert each.failure(ONE, Level.O0, LIMITS) is None
        assert each.failure(TWO, Level.O2, LIMITS) is None
    assert again(cache, "0.14.2").failure(ONE, Level.O2, LIMITS) is None


@pytest.mark.parametrize(
    ("verdict", "more_time", "more_memory"),
    [(Verdict.CRASHED, True, True), (Verdict.TIMED_OUT, False, True), (Verdict.NO_MEMORY, True, False)],
)
def test_a_failure_for_lack_counts_until_more_is_allowed(
    cache: Cache, verdict: Verdict, more_time: bool, more_memory: bool
) -> None:
    cache.fail(ONE, Level.O2, Failure(verdict, "", LIMITS))
    after = again(cache)
    assert (after.failure(ONE, Level.O2, Limits(11, 1 << 30)) is not None) == more_time
    assert (after.failure(ONE, Level.O2, Limits(10, 1 << 31)) is not None) == more_memory
    assert after.failure(ONE, Level.O2, Limits(9, 1 << 29)) is not None


def test_failures_for_lack_of_resources_are_tried_again(cache: Cache) -> None:
    cache.fail(ONE, Level.O2, Failure(Verdict.UNABLE, "", LIMITS))
    assert cache.failure(ONE, Level.O2, LIMITS) is not None
    assert again(cache).failure(ONE, Level.O2, LIMITS) is None
    cache.fail(ONE, Level.O2, Failure(Verdict.UNABLE, "", LIMITS, at=time.monotonic() - 3600))
    assert cache.failure(ONE, Level.O2, LIMITS) is None


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"verdict": "odd", "text": "", "seconds": 1, "memory": 1}'])
def test_a_damaged_record_of_failure_is_none(cache: Cache, text: str) -> None:
    (cache.folder / f"{ONE}.O2.failed").write_text(text)
    assert cache.failure(ONE, Level.O2, LIMITS) is None


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_folder_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(CacheUnusable, match=f"{folder}.*others.*--cache-dir"):
        Cache(folder, 1, ENGINE)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CacheUnusable, match=r"Not a directory.*--aot never"):
        Cache(tmp_path / "file" / "cache", 1, ENGINE)


def test_limits_grow_with_the_module_within_what_is_free() -> None:
    assert LIMITS.grown(LARGE, 0) == LIMITS
    assert LIMITS.grown(3 * LARGE, 64 << 30) == Limits(30, 3 << 30)
    assert LIMITS.grown(3 * LARGE, 4 << 30) == Limits(30, 2 << 30)
    assert LIMITS.grown(3 * LARGE, 1 << 30) == Limits(30, 1 << 30)  # never less than was asked for
    lacked = Failure(Verdict.NO_MEMORY, "", Limits(10, 2 << 30))
    assert lacked.counts(Limits(10, (2 << 30) + (200 << 20)))  # what is free varies
    assert not lacked.counts(Limits(10, 3 << 30))
