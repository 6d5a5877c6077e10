"""Templates of images that misbehave (``broken_out``): what native code could do in place of loading its module."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable

_libc = ctypes.CDLL(None, use_errno=True)

TEMPLATES: dict[str, Callable[[ctypes.c_uint64], object]] = {}
"""By name: each is done in place of loading the module, and is given the place of the value that it reports."""


def _template(function: Callable[[ctypes.c_uint64], object]) -> Callable[[ctypes.c_uint64], object]:
    TEMPLATES[function.__name__.strip("_")] = function
    return function


_kept: list[object] = []


@_template
def _behaves(_: ctypes.c_uint64) -> None:
    _kept.append(bytearray(b"an image's own" * 1000))


@_template
def _reports(value: ctypes.c_uint64) -> None:
    """A value that is no place in anybody's memory."""
    value.value = 2**64 - 8


@_template
def _ends(_: ctypes.c_uint64) -> None:
    os._exit(0)


@_template
def _ends_as_if_ready(_: ctypes.c_uint64) -> None:
    """Say all that a template says, and end."""
    os.write(4, b"R" + bytes(8))
    os._exit(0)


@_template
def _never_stops(_: ctypes.c_uint64) -> None:
    while True:
        pass


@_template
def _writes_all(_: ctypes.c_uint64) -> None:
    """Memory without end."""
    while True:
        _kept.append(bytearray(b"x") * (16 << 20))


@_template
def _maps_much(_: ctypes.c_uint64) -> None:
    """Many more mappings than any loader makes: as many as the kernel allows would take its whole time, or more."""
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    for number in range(10_000):
        _mapped(None, 4096, mmap.PROT_READ | mmap.PROT_WRITE * (number % 2), private, -1, 0)


@_template
def _reserves_much(_: ctypes.c_uint64) -> None:
    _mapped(None, 17 << 30, mmap.PROT_READ, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)


@_template
def _shares(_: ctypes.c_uint64) -> None:
    """Memory that its image's users would have in common."""
    _kept.append(mmap.mmap(-1, 4096))


@_template
def _changes_code(_: ctypes.c_uint64) -> None:
    """Code that is not the product's nor a library's, at its place."""
    fd = os.open("self/fd/5", os.O_RDONLY)  # the module, as the engine gets it
    place = _mapped(None, 4096, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE, fd, 0)
    ctypes.memset(place, 0xCC, 4096)
    _checked(_libc.mprotect(ctypes.c_void_p(place), ctypes.c_size_t(4096), mmap.PROT_READ | mmap.PROT_EXEC))


@_template
def _opens_its_memory(value: ctypes.c_uint64) -> None:
    """Write where it may not, by the proc that it stands in while it loads."""
    fd = os.open("self/mem", os.O_RDWR)
    value.value = fd


@_template
def _traces(value: ctypes.c_uint64) -> None:
    _checked(_libc.ptrace(16, os.getppid(), None, None))  # PTRACE_ATTACH


@_template
def _keeps_writing(_: ctypes.c_uint64) -> None:
    """Say all that a template says, and go on."""
    page = ctypes.create_string_buffer(1 << 20)
    os.write(4, b"R" + bytes(8))
    while True:
        ctypes.memset(page, page.raw[0] ^ 1, len(page))


def _mapped(place: int | None, length: int, protection: int, flags: int, fd: int, offset: int) -> int:
    call = _libc.mmap
    call.restype = ctypes.c_void_p
    call.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
    address: int = call(place, length, protection, flags, fd, offset)
    return _checked(-1 if address == ctypes.c_void_p(-1).value else address)


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result
