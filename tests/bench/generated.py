"""Modules of a wanted size, the same bytes each time: what a compiler makes of some thousand small functions.

Real modules of a given size would be better; where one can be had it is measured too (``modules.py``).
"""

from __future__ import annotations

from ..harness.modules import MAGIC, leb, section, vector

I32 = b"\x7f"
_TYPES = vector(
    b"\x60\0\0",  # 0: () -> ()
    b"\x60\2" + I32 * 2 + b"\1" + I32,  # 1: (i32, i32) -> i32
    b"\x60\4" + I32 * 4 + b"\1" + I32,  # 2: fd_write, fd_read
)
_TEXT = b"up\n"
_AT_TEXT, _AT_VECTOR, _AT_WRITTEN = 1024, 1032, 1040
_DATA_SHARE = 0.15  # of a module's bytes; what C compilers leave of constants is about so much
_STEPS = 8  # in a function
_PAGES = 64


def _name(text: bytes) -> bytes:
    return leb(len(text)) + text


def _const(value: int) -> bytes:
    """i32.const, whose operand is signed: two bytes, or more, for what does not fit in six bits."""
    out = bytearray()
    while value > 0x3F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return b"\x41" + bytes([*out, value])


def _function(number: int, imports: int = 1) -> bytes:
    """Loads, sums, branches and stores, and a call of an earlier function that no run of ours makes."""
    code = bytearray()
    for step in range(_STEPS):
        seed = (number * 31 + step * 17) % 4093
        code += b"\x20\0" + b"\x28\2" + leb(4 * (seed % 900)) + b"\x21\2"  # local 2 = mem[argument 0 + offset]
        code += b"\x20\2" + _const(1 << seed % 12) + b"\x71\4\x40"  # if (local 2 & bit)
        code += b"\x20\3\x20\2" + _const(seed) + b"\x6c\x6a\x21\3"  # local 3 += local 2 * seed
        code += b"\5\x20\3\x20\1\x73\x21\3\x0b"  # else local 3 ^= argument 1
    code += b"\x20\0\x20\3" + b"\x36\2" + leb(4 * (number % 900))  # mem[argument 0 + offset] = local 3
    if number:
        code += b"\x20\1" + _const(4093) + b"\x46\4\x40"  # if (argument 1 == 4093)
        code += b"\x20\0\x20\3\x10" + leb(imports + number // 2) + b"\x21\3\x0b"  # local 3 = function / 2 (...)
    code += b"\x20\3\x0b"
    body = vector(leb(2) + I32) + bytes(code)
    return leb(len(body)) + body


def _start(count: int, imports: int) -> bytes:
    """Runs sixteen of the functions and says that it is up; with two imports it reads its input then."""
    code = bytearray()
    for number in range(0, count, max(1, count // 16)):
        code += _const(0x800) + _const(number % 60) + b"\x10" + leb(imports + number) + b"\x1a"
    code += _const(1) + _const(_AT_VECTOR) + _const(1) + _const(_AT_WRITTEN) + b"\x10\0\x1a"
    if imports > 1:
        code += _const(0) + _const(_AT_VECTOR) + _const(1) + _const(_AT_WRITTEN) + b"\x10\1\x1a"
    code += b"\x0b"
    body = vector() + bytes(code)
    return leb(len(body)) + body


def module(size: int, waits: bool = False) -> bytes:
    """A module of about this many bytes (within 1 %), which ends at once, or ``waits`` for input."""
    names = (b"fd_write", b"fd_read") if waits else (b"fd_write",)
    imports = len(names)
    each = sum(len(_function(number)) for number in range(1000, 1100)) / 100 + 1  # and its byte of type
    count = int(size * (1 - _DATA_SHARE) / each)
    data = bytes(number * 2654435761 >> 13 & 0xFF for number in range(int(size * _DATA_SHARE)))
    greeting = _TEXT.ljust(8, b"\0") + _AT_TEXT.to_bytes(4, "little") + len(_TEXT).to_bytes(4, "little")
    segments = [(_AT_TEXT, greeting), (1 << 16, data)]
    assert (1 << 16) + len(data) < _PAGES << 16
    return MAGIC + b"".join(
        (
            section(1, _TYPES),
            section(2, vector(*(_name(b"wasi_snapshot_preview1") + _name(name) + b"\0\2" for name in names))),
            section(3, vector(*[b"\1"] * count, b"\0")),
            section(5, vector(b"\0" + leb(_PAGES))),
            section(7, vector(_name(b"_start") + b"\0" + leb(imports + count), _name(b"memory") + b"\2\0")),
            section(10, vector(*(_function(number, imports) for number in range(count)), _start(count, imports))),
            section(11, vector(*(b"\0" + _const(at) + b"\x0b" + leb(len(text)) + text for at, text in segments))),
        )
    )
