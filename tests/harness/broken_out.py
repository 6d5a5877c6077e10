"""A guest that has broken out of WebAssembly, for tests: our own code at the guest's place, in a confined worker.

``main`` is a forkserver with everything of the real one but the engine. Where that would run the module, it runs
one of ``tries``, with arguments, and prints ``done ...`` or the name of the errno.
"""

from __future__ import annotations

import ctypes
import errno
import os
from _ctypes import Py_INCREF

from workers import engines, forkserver
from workers.calls.call_list import CallList, Data, Step, address
from workers.engines.engine import End, Engine, Module
from workers.start_request import WASMEDGE, StartRequest

from .broken_templates import TEMPLATES
from .tries import TRIES


class BrokenOut(Engine):
    """At the engine's place: loads nothing, and runs a try with the rights of a guest."""

    name = WASMEDGE
    version = "broken out"
    stages = range(0)
    proc = b""
    images = True

    def prime(self) -> None:
        """As ``Engine``'s."""

    def __init__(self) -> None:
        self._load_call = ctypes.PYFUNCTYPE(None, *[ctypes.c_size_t] * 4)(self._load)
        self._run_call = ctypes.PYFUNCTYPE(None)(self._run)
        self._template_call = ctypes.PYFUNCTYPE(None, ctypes.c_char_p, ctypes.c_size_t)(self._be_template)
        for call in (self._load_call, self._run_call, self._template_call):
            Py_INCREF(call)  # as ``seccomp.Reporter`` does

    def load(self, calls: CallList, module: Module, request: StartRequest, folders: list[int] | None) -> Data | None:
        """Open the preopens as WasmEdge does; a template misbehaves in the way that the function's name says."""
        if folders is None:
            value = calls.slot()
            calls.call(address(self._template_call), request.function, value)
            return value
        self._open_folders(calls, folders)
        return None

    def values(self, guest: Data) -> list[Data]:
        """Name the value that a template reports."""
        return [guest]

    def restore(self, calls: CallList, values: list[int], request: StartRequest, folders: list[int]) -> None:
        """The tries need nothing of the image's."""
        self._open_folders(calls, folders)

    def _open_folders(self, calls: CallList, folders: list[int]) -> None:
        calls.call(address(self._load_call), *calls.args, calls.table(folders), len(folders))

    def _be_template(self, function: bytes, value: int) -> None:
        try:
            TEMPLATES[function.decode()](ctypes.c_uint64.from_address(value))
        except BaseException:  # a try that fails is a template that dies
            os._exit(1)

    def instantiate(self, calls: CallList, guest: None, request: StartRequest) -> None:
        """As ``Engine``'s."""

    def run(self, calls: CallList, guest: None, command: bool) -> None:
        """Make the try."""
        calls.call(address(self._run_call))
        calls.libc("_exit", 0)

    def explain(self, step: Step, result: int) -> End:
        """As ``Engine``'s: none of the above can fail."""
        raise AssertionError

    def _load(self, args: int, count: int, folders: int, folder_count: int) -> None:
        self._args = [os.fsdecode(each or b"") for each in (ctypes.c_char_p * count).from_address(args)]
        fds = (ctypes.c_uint64 * folder_count).from_address(folders)
        self._folders = [os.open(f"self/fd/{fd}/.", os.O_RDONLY | os.O_DIRECTORY) for fd in fds]

    def _run(self) -> None:
        try:
            result = TRIES[self._args[0]](self._folders, *self._args[1:])
            answer = "done" if result is None else f"done {result}"
        except OSError as error:
            answer = errno.errorcode.get(error.errno or 0, str(error))
        except MemoryError:
            answer = "MemoryError"
        os.write(1, answer.encode() + b"\n")


def main() -> None:
    """Be a forkserver with a broken-out guest in it."""
    engines.ENGINES = (BrokenOut,)
    forkserver.main()
