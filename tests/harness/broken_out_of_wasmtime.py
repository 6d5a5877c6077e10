"""A guest that has broken out of WebAssembly in a worker of Wasmtime's, for tests: as ``broken_out``.

The worker is a real one: its zygote has the library loaded, it maps a product and makes an instance of it, behind the
filters for workers with threads. Where the guest would run, one of the tries does.
"""

from __future__ import annotations

from workers import engines, forkserver
from workers.calls.call_list import CallList
from workers.engines.engine import Module
from workers.engines.wasmtime.engine import Guest, Wasmtime
from workers.start_request import StartRequest

from .broken_out import BrokenOut


class BrokenOutOfWasmtime(Wasmtime):
    """Wasmtime, with a try in the guest's place."""

    def __init__(self, version: str, path: str) -> None:
        super().__init__(version, path)
        self._out = BrokenOut()

    def load(self, calls: CallList, module: Module, request: StartRequest, folders: list[int] | None) -> Guest:
        """Open the preopens for the tries, too."""
        self._out.load(calls, module, request, folders or [])
        return super().load(calls, module, request, folders)

    def run(self, calls: CallList, guest: Guest, command: bool) -> None:
        """Make the try."""
        self._out.run(calls, None, command)


def main() -> None:
    """Be a forkserver with both kinds of broken-out guests in it."""
    engines.ENGINES = (BrokenOut, BrokenOutOfWasmtime)
    forkserver.main()
