"""Fresh interpreters for the helpers (forkserver, relay, compiler), and where those with an engine find it.

Where the host's own libraries do not fit libwasmedge, a folder holds it with all that it needs, the C library included
(packaging/install-wasmedge.sh). Such an interpreter runs by that folder's dynamic loader (ld.so(8)); every other
process, the supervisor first, stays with the host's libraries.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import platform
import subprocess
import sys
from pathlib import Path

import workers

LIBRARY = "libwasmedge.so.0"
VARIABLE = "WASM_SANDBOXER_LIBWASMEDGE"
"""Names libwasmedge, or a folder that has it in ``lib``. Helpers are told the library's path by it, too."""
OUR_FOLDER = Path(sys.prefix) / "wasmedge"
"""Filled by install-wasmedge.sh: beside the packages that this interpreter runs."""

WASMTIME_VARIABLE = "WASM_SANDBOXER_LIBWASMTIME"
"""Tells helpers libwasmtime's version and path, with a colon between; set only where the package is installed."""

_WITH_ENGINE = ("forkserver", "compiler", "engines.wasmedge.version", "engines.wasmtime.version")
_BOOT = "import sys; sys.path.insert(0, sys.argv[1]); import workers.{module} as helper; helper.main()"


@functools.cache
def wasmtime() -> tuple[str, str] | None:
    """Version and path of libwasmtime, which the package ``wasmtime`` brings; None where it is not installed."""
    found = importlib.util.find_spec("wasmtime")
    for folder in found.submodule_search_locations or () if found else ():
        for library in Path(folder).glob(f"linux-{platform.machine()}/_libwasmtime.so"):
            return importlib.metadata.version("wasmtime"), str(library)
    return None


def python(engine: bool) -> tuple[list[str], dict[str, str]]:
    """The command of a bare interpreter, and its environment; with ``engine`` it finds libwasmedge."""
    # -I and -S keep site-packages and the environment out: a helper stays small, and only ours is imported.
    bare = [sys.executable, "-I", "-S"]
    environment = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    if not engine:
        return bare, environment
    if found := wasmtime():
        environment[WASMTIME_VARIABLE] = ":".join(found)
    chosen = Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else OUR_FOLDER
    folder = chosen / "lib"
    if not folder.is_dir():
        if chosen != OUR_FOLDER:
            environment[VARIABLE] = str(chosen.absolute())
        return bare, environment
    environment[VARIABLE] = str(folder.absolute() / LIBRARY)
    environment["LD_LIBRARY_PATH"] = ":".join(filter(None, (str(folder), environment.get("LD_LIBRARY_PATH"))))
    for loader in sorted(folder.glob("ld-linux-*.so.*")):
        path = environment.pop("LD_LIBRARY_PATH")
        return [str(loader), "--library-path", path, "--argv0", sys.executable, *bare], environment
    return bare, environment


def helper(module: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """The command that runs ``workers.<module>.main()`` with these arguments, and its environment."""
    command, environment = python(module in _WITH_ENGINE)
    package_root = str(Path(workers.__file__).resolve().parent.parent)
    return [*command, "-c", _BOOT.format(module=module), package_root, *arguments], environment


def spawn(
    module: str,
    *arguments: str,
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.DEVNULL,
    folder: str = "/",
) -> int:
    """Start a helper in ``folder`` and in a session of its own, with no descriptor but its streams; its pid.

    The reaper collects it, with every other child. Not by posix_spawn(3): glibc has the child ignore two signals of
    its own (SIGCANCEL, SIGSETXID), and so would all guests. Raises ``OSError``.
    """
    command, environment = helper(module, *arguments)
    process = subprocess.Popen(command, stdin=stdin, stdout=stdout, env=environment, cwd=folder, start_new_session=True)
    process.returncode = 0  # the reaper waits for it
    return process.pid
