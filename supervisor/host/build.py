"""The build that helpers are of: their code, the Python that runs it, and the engines' libraries.

Helpers outlive the daemon, and so its version. A daemon gives new work to helpers of its own build alone.
"""

from __future__ import annotations

import functools
import hashlib
import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import workers

from . import errors, interpreters

_DIGITS = 8
"""As few as will do: a socket's path has 107 bytes."""
_SYSTEM_FOLDERS = ("/usr/local/lib", "/usr/lib64", f"/usr/lib/{sysconfig.get_config_var('MULTIARCH')}", "/usr/lib")


class Replaced(OSError):
    """The files that helpers are started from are not those that this process began with."""

    def __init__(self) -> None:
        super().__init__(0, "")
        self.strerror = "the files of wasm-sandboxer were replaced: restart it"


@functools.cache
def name() -> str:
    """A name for the build that this process began with."""
    _files()
    return _digest()


def check() -> None:
    """Raises ``Replaced`` where the code or a library is not that of which ``name`` was made, any more.

    Raises ``OSError`` where there is too little of something to look at them.
    """
    if name() and _files() != _look():
        try:
            now = _digest()
        except OSError as error:
            if errors.lacking(error):
                raise
            now = ""  # it goes just now
        if now != name():
            raise Replaced


def _digest() -> str:
    digest = hashlib.sha256(f"{sys.executable} {sys.version}".encode())
    for path in _code():
        digest.update(f"{path.relative_to(_root())} {path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    for library in _libraries():
        status = library.stat()
        digest.update(f"{library} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:_DIGITS]


@functools.cache
def _files() -> dict[str, tuple[int, int, int]]:
    return _look()


def _look() -> dict[str, tuple[int, int, int]]:
    found = {}
    try:
        for path in (*_code(), *_libraries()):
            status = path.stat()
            found[str(path)] = status.st_ino, status.st_size, status.st_mtime_ns
    except OSError:  # it goes just now
        return {}
    return found


def _root() -> Path:
    return Path(workers.__file__).resolve().parent


def _code() -> list[Path]:
    """Raises ``OSError``, where ``Path.rglob`` passes over folders that it cannot open (Python 3.13)."""

    def failed(error: OSError) -> None:
        raise error

    found = (Path(folder, each) for folder, _, names in os.walk(_root(), onerror=failed) for each in names)
    return sorted(each for each in found if each.suffix == ".py")


def _libraries() -> Iterator[Path]:
    """The engines' libraries, as far as they can be found without loading them."""
    _, environment = interpreters.python(engine=True)
    named = Path(environment.get(interpreters.VARIABLE, ""))
    candidates = [named] if named.name else [Path(each, interpreters.LIBRARY) for each in _SYSTEM_FOLDERS]
    if wasmtime := interpreters.wasmtime():
        candidates.append(Path(wasmtime[1]))
    return (Path(os.path.realpath(each)) for each in candidates if each.is_file())
