"""Wasmtime's switches of UDP and TCP are set only where they lie behind that of name lookup."""

from __future__ import annotations

import ctypes
from typing import cast

import pytest

from workers.engines.wasmtime.engine import has_switches

_LIBC = ctypes.PyDLL(None)
_LIBC.malloc.restype = ctypes.c_void_p
_LIBC.malloc_usable_size.argtypes = (ctypes.c_void_p,)


class Library:
    """Stands for Wasmtime's: a configuration of which name lookup sets these bytes, with others behind it."""

    def __init__(self, begin: bytes, sets: tuple[int, ...]) -> None:
        self._begin = begin
        self._sets = sets

    def wasi_config_new(self) -> int:
        config: int = _LIBC.malloc(64)
        ctypes.memset(config, 0xAA, _LIBC.malloc_usable_size(config))
        ctypes.memmove(config, self._begin, len(self._begin))
        return config

    def wasi_config_allow_ip_name_lookup(self, config: int, allowed: bool) -> None:
        for at in self._sets:
            end = _LIBC.malloc_usable_size(config) if at < 0 else 0
            ctypes.memset(config + end + at, allowed, 1)

    def wasi_config_delete(self, config: int) -> None:
        _LIBC.free(ctypes.c_void_p(config))


@pytest.mark.parametrize(
    ("begin", "sets", "found"),
    [
        (b"\0\0\0", (0,), True),
        (b"\7\0\0\0\0\1", (2,), True),
        (b"\0\0", (0,), False),  # behind them is something else
        (b"\0\0\1", (0,), False),
        (b"\0\1\0", (0,), False),
        (b"\1\0\0", (0,), False),  # name lookup is allowed already
        (b"\0\0\0", (0, 1), False),
        (b"\0\0\0", (-1,), False),  # it is the last byte of all
        (b"\0\0\0", (), False),
    ],
)
def test_two_switches_that_are_off_are_recognised(begin: bytes, sets: tuple[int, ...], found: bool) -> None:
    assert has_switches(cast(ctypes.PyDLL, Library(begin, sets))) is found
