"""A list of C calls, built before a fork so that the fork can make them without Python.

A ``CallList`` is bytes that are valid at one address only: steps (their layout is in ``machine``), then the data
that the steps point to. It is built in the forkserver, sent to the zygote and run in the worker.
"""

from __future__ import annotations

import ctypes
import posix
import struct
from ctypes import c_size_t, c_uint64, c_void_p

from . import machine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from typing import Any

NEVER, NEGATIVE, NONZERO, ZERO, FALSE, ANY, NEGATIVE_LONG = range(7)
"""Kinds of results that are failures: none, a negative int, an int that is not 0, a pointer that is 0, a false bool,
any 64 bits that are not 0, a negative number of 64 bits."""

_ALL = 0xFFFFFFFFFFFFFFFF
_MASKS = (0, 0x80000000, 0xFFFFFFFF, _ALL, 0xFF, _ALL, 1 << 63)
_GOOD_VERDICTS = (0, 0, 0, 1, 1, 0, 0)
_HEAD = struct.Struct("<QBBHIQQQ")
STEP_BYTES = _HEAD.size
_MAX_ARGUMENTS = 8
_DONE = 0xFFFFFFFF

_libc = ctypes.PyDLL(None, use_errno=True)


class At:
    """An argument that is not the value, but the address at which it lies when the call is made."""

    __slots__ = ("place",)

    def __init__(self, place: int | Data) -> None:
        self.place = place


class Data:
    """A place among a list's data."""

    __slots__ = ("offset",)

    def __init__(self, offset: int) -> None:
        self.offset = offset

    def __add__(self, bytes_: int) -> Data:
        return Data(self.offset + bytes_)


class Late:
    """A word of an argument that is filled in when the list is completed."""

    __slots__ = ("places",)

    def __init__(self) -> None:
        self.places: list[int] = []


class Label:
    """A place among a list's steps, to go on at."""

    __slots__ = ("address", "offset")

    def __init__(self, address: int = 0) -> None:
        """With an address, it is a place in another list."""
        self.address = address
        self.offset = 0


class CallList:
    """Calls in their order, with what they point to."""

    __slots__ = ("_data", "_fixed", "_marked", "_steps", "_told", "args", "env", "tails")

    def __init__(self, told: Collection[int] = ()) -> None:
        """A failure of a step of a stage in ``told`` goes on at the label of that stage in ``tails``."""
        self._told = told
        self.tails: dict[int, Label] = {}
        """By stage, of those that have steps; for the list's builder to bind."""
        self.args = Late(), Late()
        """Table of the guest's arguments, and their number."""
        self.env = Late(), Late()
        """Table of its environment, and the number of its variables."""
        self._steps = bytearray()
        self._data = bytearray()
        self._fixed: list[tuple[bytearray, int, int]] = []  # where the address of which data goes
        self._marked: list[tuple[int, Label]] = []

    def call(
        self,
        function: int,
        *arguments: int | bytes | At | Data | Late | None,
        fails: int = NEVER,
        stage: int = 0,
        out: int | Data = 0,
        orelse: Label | None = None,
    ) -> None:
        """Add a step: call the function at this address, with numbers, bytes (as a pointer to them, followed by a
        zero) and what else may stand for an argument; None is 0.

        ``fails`` says which results are failures: the list then goes on at ``orelse`` or, without one, ends. The
        ``stage`` names the step for the explanation of a failure. The result is stored at ``out``, where that is not 0.
        """
        steps = self._steps
        begin = len(steps)
        values = []
        indirect = 0
        at = begin + STEP_BYTES
        for i, argument in enumerate(arguments):
            if type(argument) is int:  # most are; this runs dozens of times for a start
                values.append(argument & _ALL)
            else:
                if isinstance(argument, At):
                    indirect |= 1 << i
                    argument = argument.place
                values.append(self._word(steps, at, argument))
            at += 8
        if orelse is None and stage in self._told:
            orelse = self.tails.setdefault(stage, Label())
        if orelse is not None:
            self._marked.append((begin + 32, orelse))
        where = self._word(steps, begin + 16, out) if out else 0
        steps += _HEAD.pack(function, indirect, _GOOD_VERDICTS[fails], at - begin, stage, where, _MASKS[fails], 0)
        steps += struct.pack(f"<{len(values)}Q", *values)

    def libc(self, name: str, *arguments: int | bytes | At | Data | Late | None, **more: Any) -> None:
        """Add a call of the C library's function of this name, as ``call`` does."""
        self.call(_LIBC[name], *arguments, **more)

    def go(self, label: Label) -> None:
        """Go on there."""
        # Any call whose result is a failure will do: the length of a text that is not empty.
        self.libc("strlen", b"go", fails=ANY, orelse=label)

    def bind(self, label: Label) -> None:
        """Here is that place: before the next step."""
        label.offset = len(self._steps)

    def data(self, content: bytes) -> Data:
        """Add data, followed by at least one zero byte, at a multiple of 8 bytes."""
        offset = len(self._data)
        self._data += content
        self._data += bytes(8 - len(content) % 8)
        return Data(offset)

    def slot(self) -> Data:
        """Add room for one number or pointer, 0 at first."""
        return self.table([0])

    def table(self, words: Sequence[int | bytes | Data]) -> Data:
        """Add a row of 64-bit numbers and pointers."""
        places = [self.data(word) if isinstance(word, bytes) else word for word in words]
        offset = len(self._data)
        values = [self._word(self._data, offset + 8 * i, place) for i, place in enumerate(places)]
        self._data += struct.pack(f"<{len(values)}Q", *values)
        return Data(offset)

    def finish(self, base: int) -> bytes:
        """The list, to be put at this address, where its first step will stand."""
        data = base + len(self._steps) + _MAX_ARGUMENTS * 8  # that many are read at every step, however few it has
        for where, at, offset in self._fixed:
            where[at : at + 8] = (data + offset).to_bytes(8, "little")
        for at, label in self._marked:
            self._steps[at : at + 8] = (label.address or base + label.offset).to_bytes(8, "little")
        return bytes(self._steps) + bytes(_MAX_ARGUMENTS * 8) + bytes(self._data)

    def _word(self, where: bytearray, at: int, value: int | bytes | Data | Late | None) -> int:
        """The 64 bits that stand for a value; for a place, 0 until its address is known."""
        if isinstance(value, bytes):
            value = self.data(value)
        if isinstance(value, Data):
            self._fixed.append((where, at, value.offset))
            return 0
        if isinstance(value, Late):
            value.places.append(at)
            return 0
        return (value or 0) & _ALL


class PartialList:
    """A finished list without the guest's arguments and environment: one for all that differ in these alone."""

    __slots__ = ("_base", "_calls", "_code")

    def __init__(self, calls: CallList, base: int) -> None:
        self._calls = calls
        self._code = calls.finish(base)
        self._base = base

    def __len__(self) -> int:
        return len(self._code)

    def complete(self, args: Sequence[bytes], env: Sequence[bytes]) -> bytes:
        """The list for a guest with these."""
        code = bytearray(self._code)
        for (table, count), texts in ((self._calls.args, args), (self._calls.env, env)):
            begin = len(code)
            address = self._base + begin + 8 * (len(texts) + 1)  # a null pointer ends the table, as of environ(7)
            pointers = []
            for text in texts:
                pointers.append(address)
                address += len(text) + 1
            code += (
                struct.pack(f"<{len(texts) + 1}Q", *pointers, 0) + b"\0".join(texts) + bytes(1 + (begin - address) % 8)
            )
            for late, value in ((table, self._base + begin), (count, len(texts))):
                for place in late.places:
                    code[place : place + 8] = value.to_bytes(8, "little")
        return bytes(code)


class Step:
    """A step as it lies in memory, for the explanation of its failure."""

    __slots__ = ("arguments", "stage")

    def __init__(self, address: int) -> None:
        _, indirect, _, length, self.stage, _, _, _ = _HEAD.unpack(ctypes.string_at(address, STEP_BYTES))
        words = ctypes.string_at(address + STEP_BYTES, length - STEP_BYTES)
        values = struct.unpack(f"<{len(words) // 8}Q", words)
        self.arguments = [_peek(value) if indirect >> i & 1 else value for i, value in enumerate(values)]
        """As the call was given them."""


class Runner:
    """Makes the calls of lists."""

    __slots__ = ("_run", "place", "routine")

    def __init__(self, native: bool = True) -> None:
        """``native`` is by machine code, where that can be had."""
        self.place = ctypes.addressof(_RESULT)
        """Where to note each call's result."""
        self._run: Callable[[int], int] = self._interpret
        self.routine = 0
        """Address of the machine code; 0 where Python makes the calls."""
        code = machine.run_code() if native else b""
        if code:
            try:
                self.routine = machine.load(code)
            except OSError:  # a policy that lets no process make code of its own
                return
            routine = _function(self.routine, c_size_t, c_size_t, c_size_t)
            self._run = lambda step: routine(step, self.place)

    @property
    def result(self) -> int:
        """The last call's result."""
        return _peek(self.place)

    def run(self, address: int) -> Step:
        """Make the calls of the list at this address: the step that failed and ended it. Its errno is ctypes'."""
        return Step(self._run(address))

    def perform(self, calls: CallList) -> None:
        """Make the calls of a list here and now. Raises ``OSError``."""
        calls.libc("strlen", b"done", fails=ANY, stage=_DONE)
        size = len(calls.finish(0))
        memory = ctypes.create_string_buffer(size)
        memory.raw = calls.finish(ctypes.addressof(memory))
        if self.run(ctypes.addressof(memory)).stage != _DONE:
            number = ctypes.get_errno()
            raise OSError(number, posix.strerror(number))

    def _interpret(self, at: int) -> int:
        result = c_uint64.from_address(self.place)
        while True:
            head = _HEAD.unpack(ctypes.string_at(at, STEP_BYTES))
            function, indirect, good, length, _, out, mask, orelse = head
            arguments = list((c_uint64 * _MAX_ARGUMENTS).from_address(at + STEP_BYTES))
            for i in range(_MAX_ARGUMENTS):
                if indirect >> i & 1:
                    arguments[i] = _peek(arguments[i])
            result.value = _function(function, c_uint64, *[c_uint64] * _MAX_ARGUMENTS)(*arguments)
            if out:
                c_uint64.from_address(out).value = result.value
            if bool(result.value & mask) == bool(good):
                at += length
            elif orelse:
                at = orelse
            else:
                return at


def function(name: str) -> int:
    """The address of the C library's function of this name."""
    return _LIBC[name]


def address(function: object) -> int:
    """The address of a C function that ctypes has looked up."""
    return ctypes.cast(function, c_void_p).value or 0  # type: ignore[arg-type]


def _function(address: int, result: type, *arguments: type) -> Callable[..., int]:
    function = _libc._FuncPtr(address)  # that keeps the interpreter lock, and the errno
    function.restype, function.argtypes = result, arguments
    return function


def _peek(place: int) -> int:
    value: int = c_uint64.from_address(place).value
    return value


class _Addresses(dict[str, int]):
    """The addresses of the C library's functions, each looked up once."""

    def __missing__(self, name: str) -> int:
        found = self[name] = address(getattr(_libc, name))
        return found


_RESULT = c_uint64()
_LIBC = _Addresses()
