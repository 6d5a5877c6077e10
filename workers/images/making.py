"""One image under way. Making it takes two processes beside the forkserver, which goes on with its work meanwhile.

The template, forked by the zygote and shut in like any worker of that module, loads it and stops. The maker, a fork of
the forkserver, compares the template's memory with the zygote's (``snapshot``), and writes the image: so its memory is
charged to the sandboxer's own control group. Neither outlives ``MAKE_SECONDS`` by more than a second, whatever happens
to the other two.
"""

from __future__ import annotations

import _signal
import fcntl
import os
import posix
import struct
import time

from .. import linux
from ..protocol import READY, pack_numbers, unpack_numbers
from . import snapshot
from .image import Image, Segment

MAKE_SECONDS = 10

_F_ADD_SEALS, _SEALS = 1033, 0xF  # fcntl(2): no more seals, and no shrinking, growing or writing
_PID_BYTES = 4
_MADE, _UNFIT, _TOO_LARGE = b"I", b"U", b"L"


class Template:
    """A process that has loaded a module, or is about to, and where it stands."""

    __slots__ = ("left_out", "pid", "product", "report", "values", "zygote")

    def __init__(
        self, pid: int, report: int, values: int, zygote: int, left_out: tuple[int, int], product: int
    ) -> None:
        self.pid = pid
        self.report = report
        """The pipe on which it says its pid, READY and the engine's values."""
        self.values = values
        """How many values, 8 bytes each."""
        self.zygote = zygote
        """Pid of the zygote that it is a fork of."""
        self.left_out = left_out
        """Range of its memory where call lists lie."""
        self.product = product
        """Descriptor of the compiled module."""


class Making:
    """An image under way."""

    __slots__ = ("_began", "_memory", "_pids", "_result", "_said")

    def __init__(self, template: Template, room: int) -> None:
        """Begin to make an image of at most so many bytes. The template's report is closed. Raises ``OSError``.

        It is told of ``reaped`` children until it is closed.
        """
        self._began = time.monotonic()
        self._said = b""
        self._pids = {template.pid}
        self._memory = self._result = answer = handle = -1
        folders: list[int] = []
        try:
            # Opened before the template can be reaped: by its pid, the maker might look at another process.
            for pid in (template.zygote, template.pid):
                folders.append(posix.open(f"/proc/{pid}", posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC))
            self._memory = os.memfd_create("image", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            self._result, answer = os.pipe2(os.O_CLOEXEC)
            handle = os.pidfd_open(template.pid)
            maker = linux.fork()
            if maker == 0:
                _make(template, folders, handle, answer, self._memory, room)
            self._pids.add(maker)
        except OSError:
            self.close()
            raise
        finally:
            for fd in (template.report, answer, handle, *folders):
                if fd >= 0:
                    posix.close(fd)

    def fileno(self) -> int:
        """Readable when there is something to ``receive``."""
        return self._result

    def receive(self) -> bool:
        """Read what the maker says; whether that was all."""
        part = posix.read(self._result, 1 << 16)
        self._said += part
        return not part

    @property
    def seconds_left(self) -> float:
        """How long it may still take; below 0 it is to be closed."""
        return self._began + MAKE_SECONDS + 1 - time.monotonic()

    def image(self, serial: int, digest: bytes) -> Image:
        """The image that was made. Raises ``Unfit`` and ``TooLarge`` where there is none, and ``OSError``."""
        said = self._said[8:]
        if len(said) != int.from_bytes(self._said[:8], "little"):  # it died within its answer
            said = b""
        verdict, text = said[:1], said[1:]
        if verdict == _TOO_LARGE:
            raise snapshot.TooLarge(*unpack_numbers(text))
        if verdict != _MADE:
            late = "it took too long" if self.seconds_left < 0 else "the maker died"
            raise snapshot.Unfit(text.decode(errors="replace") if verdict == _UNFIT else late)
        fcntl.fcntl(self._memory, _F_ADD_SEALS, _SEALS)
        count, end_of_heap, *numbers = unpack_numbers(text)
        values, places = numbers[:count], numbers[count:]
        segments = [Segment(*places[i : i + 5]) for i in range(0, len(places), 5)]
        memory, self._memory = self._memory, -1
        took = int((time.monotonic() - self._began) * 1e6)
        return Image(serial, digest, memory, segments, end_of_heap, values, took)

    def reaped(self, pid: int) -> None:
        """A child is reaped: its pid may be another process's from now on."""
        self._pids.discard(pid)

    def close(self) -> None:
        """End both processes, and give back what the image has taken, unless it was made."""
        for pid in self._pids:
            try:
                posix.kill(pid, _signal.SIGKILL)
            except OSError:
                pass
        for fd in (self._memory, self._result):
            if fd >= 0:
                posix.close(fd)
        self._memory = self._result = -1


# The maker


class _Overdue(Exception):
    """The time is over."""


def _overdue(number: int, frame: object) -> None:
    raise _Overdue


def _make(template: Template, folders: list[int], handle: int, answer: int, memory: int, room: int) -> None:
    """Be the maker; the folders are the zygote's and the template's in /proc. Never returns."""
    said = _UNFIT + b"the template died"
    try:
        _signal.signal(_signal.SIGALRM, _overdue)
        _signal.setitimer(_signal.ITIMER_REAL, MAKE_SECONDS)
        _close_all_but(template.report, template.product, *folders, handle, answer, memory)
        whole = _PID_BYTES + len(READY) + 8 * template.values
        heard = b""
        while len(heard) < whole and (part := posix.read(template.report, whole - len(heard))):
            heard += part
        if len(heard) == whole and heard[_PID_BYTES : _PID_BYTES + len(READY)] == READY:
            status = posix.fstat(template.product)
            product = (status.st_dev, status.st_ino)
            taken = snapshot.Snapshot(folders[0], folders[1], template.left_out, product)
            segments, end_of_heap = taken.take(memory, room)
            numbers = [number for each in segments for number in each.numbers()]
            found = struct.unpack(f"<{template.values}q", heard[-8 * template.values :])
            said = _MADE + pack_numbers(template.values, end_of_heap, *found, *numbers)
    except snapshot.TooLarge as error:
        said = _TOO_LARGE + pack_numbers(*error.args)
    except (ProcessLookupError, FileNotFoundError):  # of its folder in /proc
        pass
    except _Overdue:
        said = _UNFIT + b"it took too long"
    except (OSError, ValueError, MemoryError, snapshot.Unfit) as error:
        said = _UNFIT + str(error).encode(errors="replace")[:200]
    finally:
        try:
            try:
                _signal.pidfd_send_signal(handle, _signal.SIGKILL)  # the forkserver may not live to do it
            except ProcessLookupError:
                pass
            said = pack_numbers(len(said)) + said
            while said:
                said = said[posix.write(answer, said) :]
        finally:
            posix._exit(0)


def _close_all_but(*kept: int) -> None:
    """Close every other descriptor above the streams: others wait for the ends of some."""
    begin = 3
    for fd in sorted(kept):
        if fd > begin:
            linux.close_range(begin, fd - 1)
        begin = fd + 1
    linux.close_range(begin, linux.LAST_FD)
