"""Tries like those of ``tries``, in a worker whose engine makes threads, as Wasmtime does."""

from __future__ import annotations

import ctypes

from . import broken_out, tries

_HELD = ctypes.PyDLL(None)
"""The C library, called with the interpreter's lock held: as an engine runs a guest."""
_HELD.pthread_create.argtypes = [ctypes.c_void_p] * 4


def _change_folder(_: list[int], seconds: str) -> object:
    """chdir(2) in a second thread, while the first is at work with the interpreter's lock."""
    thread, root = ctypes.c_ulong(), ctypes.create_string_buffer(b"/")
    chdir = ctypes.cast(_HELD.chdir, ctypes.c_void_p)
    _HELD.pthread_create(ctypes.byref(thread), None, chdir, ctypes.addressof(root))
    _HELD.sleep(int(seconds))
    return None


def main() -> None:
    """Be a forkserver with a broken-out guest in it, whose engine makes threads."""
    broken_out.BrokenOut.threads = True
    tries.TRIES["change_folder"] = _change_folder
    broken_out.main()
