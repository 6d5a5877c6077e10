"""The name of a build: of what helpers are started from, as it was when the daemon began."""

from __future__ import annotations

import errno
import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.host import build, interpreters


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the helpers' code, and a library."""
    copy = tmp_path / "workers"
    shutil.copytree(build._root(), copy, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "lib.so").write_bytes(b"an engine")
    monkeypatch.setenv(interpreters.VARIABLE, str(tmp_path / "lib.so"))
    monkeypatch.setattr(build, "_root", lambda: copy)
    _forget()
    yield copy
    _forget()


def _forget() -> None:
    build.name.cache_clear()
    build._files.cache_clear()


def renamed() -> str:
    """The name that a daemon gives that begins now."""
    _forget()
    return build.name()


def test_the_same_files_have_the_same_name_whenever_they_were_written(code: Path) -> None:
    name = build.name()
    os.utime(code / "relay.py", (1, 1))
    build.check()
    assert renamed() == name


def test_other_code_is_another_build_and_nothing_is_started_of_it(code: Path) -> None:
    name = build.name()
    with (code / "relay.py").open("a") as file:
        file.write("# later\n")
    with pytest.raises(build.Replaced):
        build.check()
    assert build.name() == name, "what runs is what the daemon began with"
    assert renamed() != name
    build.check()


def test_a_file_more_or_less_is_another_build(code: Path) -> None:
    names = {build.name()}
    (code / "later.py").touch()
    names.add(renamed())
    (code / "logger.py").unlink()
    names.add(renamed())
    assert len(names) == 3


def test_another_library_is_another_build(code: Path) -> None:
    name = build.name()
    (code.parent / "lib.so").write_bytes(b"another engine")
    with pytest.raises(build.Replaced):
        build.check()
    assert renamed() != name


def test_code_that_is_gone_is_said(code: Path) -> None:
    build.name()
    shutil.rmtree(code)
    with pytest.raises(build.Replaced) as raised:
        build.check()
    assert raised.value.strerror == "the files of wasm-sandboxer were replaced: restart it"


def test_without_a_descriptor_to_look_at_them_files_do_not_count_as_replaced(code: Path) -> None:
    build.name()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files") as raised:
            build.check()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert raised.value.errno == errno.EMFILE
    build.check()
