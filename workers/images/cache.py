"""The images that a forkserver has: made behind the scenes once a product was started twice, dropped by age.

Making one takes two more processes. The template, forked by the zygote and shut in like any worker of that module,
loads it and stops. The maker, a fork of the forkserver, compares the template's memory with the zygote's
(``snapshot``), so that the forkserver itself goes on with its work.
"""

from __future__ import annotations

import _signal
import fcntl
import os
import posix
import struct
import sys

from .. import linux
from ..protocol import READY, pack_numbers, unpack_numbers
from . import snapshot
from .image import Image, Segment

STARTS = 2
"""Starts of a product after which it is worth an image."""
REMEMBERED = 1024
"""Products whose starts are counted, or that are known to be unfit."""
MAKE_SECONDS = 10
TRIED_AGAIN = 64
"""Starts after which an image is tried again that may have failed for lack of room."""
TEMPLATE_DATA = 1 << 30
"""Bytes that a template may have beyond what an image may, such as a guest's memory that it never writes to."""
TEMPLATE_SPACE = 64 << 30
"""Bytes of address space that a template may take, and with it of page tables."""

_RLIMIT_DATA, _RLIMIT_AS = 2, 9
_F_ADD_SEALS, _SEALS = 1033, 0xF  # fcntl(2): no more seals, and no shrinking, growing or writing
_PID_BYTES = 4
_MADE, _UNFIT = b"I", b"U"


class _Making:
    """An image under way."""

    __slots__ = ("key", "memory", "pids", "result", "room", "said")

    def __init__(self, key: object, memory: int, result: int, pids: set[int], room: int) -> None:
        self.key = key
        self.room = room
        """How many bytes it may have."""
        self.memory = memory
        self.result = result
        self.pids = pids
        """Pids of the template and the maker, until they are reaped."""
        self.said = b""


class ImageCache:
    """Images by the product and all else that changes the loaded state. One at a time is made."""

    def __init__(self) -> None:
        self._most = 0
        self._images: dict[object, Image] = {}  # the one used last at the end
        self._starts: dict[object, int] = {}
        self._unfit: dict[object, None] = {}
        self._making: _Making | None = None
        self._serial = 0
        self._users: dict[int, Image] = {}  # by pid
        self._dropped: list[Image] = []  # that are still in use

    @property
    def template_limits(self) -> list[tuple[int, int, int]]:
        """The resource limits of a template: kind, soft and hard (getrlimit(2))."""
        data = self._most + TEMPLATE_DATA
        return [(_RLIMIT_DATA, data, data), (_RLIMIT_AS, TEMPLATE_SPACE, TEMPLATE_SPACE)]

    @property
    def _room(self) -> int:
        """Bytes that are not taken by images in use: these stay, whatever is dropped here."""
        used = sum(each.bytes for each in self._images.values() if each.users)
        return self._most - used - sum(each.bytes for each in self._dropped)

    def limit(self, most: int) -> None:
        """Set how many bytes all images may take together; 0 makes none."""
        self._most = most
        self._make_room()

    def find(self, key: object) -> Image | None:
        """The image of a product; where there is none, this start of it is counted."""
        image = self._images.pop(key, None)
        if image is not None:
            self._images[key] = image
            return image
        self._starts[key] = self._starts.pop(key, 0) + 1
        _forget_oldest(self._starts)
        return None

    def wanted(self, key: object) -> bool:
        """Whether an image should be made now."""
        often = self._starts.get(key, 0) >= STARTS
        return often and self._making is None and key not in self._unfit and self._room > 0

    def used(self, image: Image, pid: int) -> None:
        """This process has an image mapped, until it is ``reaped``."""
        image.users += 1
        self._users[pid] = image

    def make(
        self,
        key: object,
        template: int,
        report: int,
        zygote: int,
        left_out: tuple[int, int],
        product: int,
        values: int,
    ) -> None:
        """Begin to make an image; ``fileno`` is readable when there is something to ``receive``.

        The template is told by its pid, and says on the pipe ``report``, which is ours from now on: its pid, READY and
        this number of ``values``, 8 bytes each. Raises ``OSError``.
        """
        memory = result = answer = -1
        room, processes = self._room, []
        try:
            # Opened before the template can be reaped: by its pid, the maker might look at another process.
            for pid in (zygote, template):
                processes.append(posix.open(f"/proc/{pid}", posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC))
            memory = os.memfd_create("image", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            result, answer = os.pipe2(os.O_CLOEXEC)
            maker = linux.fork()
            if maker == 0:
                _make(report, answer, memory, processes[0], processes[1], left_out, product, values, room)
        except OSError:
            _kill(template)
            for fd in (memory, result):
                if fd >= 0:
                    posix.close(fd)
            self._unfit[key] = None
            raise
        finally:
            for fd in (report, *processes):
                posix.close(fd)
            if answer >= 0:
                posix.close(answer)
        self._making = _Making(key, memory, result, {template, maker}, room)

    def fileno(self) -> int:
        """Where the maker speaks; -1 where none is at work."""
        return self._making.result if self._making is not None else -1

    def receive(self) -> bool:
        """Read what the maker says; whether that was all, and it is time to ``finish``."""
        assert self._making is not None
        part = posix.read(self._making.result, 1 << 16)
        self._making.said += part
        return not part

    def finish(self) -> None:
        """Take the image that was made, if it was."""
        making, self._making = self._making, None
        assert making is not None
        posix.close(making.result)
        for pid in making.pids:
            _kill(pid)
        verdict, text = making.said[:1], making.said[1:]
        self._starts.pop(making.key, None)
        if verdict != _MADE:
            posix.close(making.memory)
            if making.room < self._most:  # it may be for lack of room
                self._starts[making.key] = STARTS - TRIED_AGAIN
                _forget_oldest(self._starts)
            else:
                self._unfit[making.key] = None
                _forget_oldest(self._unfit)
            reason = text.decode(errors="replace") if verdict == _UNFIT else "the maker died"
            print(f"forkserver: no image of a module: {reason}", file=sys.stderr)
            return
        fcntl.fcntl(making.memory, _F_ADD_SEALS, _SEALS)
        count, end_of_heap, *numbers = unpack_numbers(text)
        values, places = numbers[:count], numbers[count:]
        segments = [Segment(*places[i : i + 5]) for i in range(0, len(places), 5)]
        self._serial += 1
        self._images[making.key] = Image(self._serial, making.memory, segments, end_of_heap, values)
        self._make_room()

    def reaped(self, pid: int) -> None:
        """A child is reaped: its pid may be another process's from now on."""
        if self._making is not None:
            self._making.pids.discard(pid)
        image = self._users.pop(pid, None)
        if image is not None:
            image.users -= 1
            if not image.users and image in self._dropped:
                self._dropped.remove(image)

    def clear(self) -> None:
        """Drop every image."""
        for key in list(self._images):
            self._drop(key)

    def _make_room(self) -> None:
        """Drop images that nobody uses, the oldest first, until the rest has room."""
        for key in [key for key, each in self._images.items() if not each.users]:
            if sum(each.bytes for each in (*self._images.values(), *self._dropped)) <= self._most:
                break
            self._drop(key)

    def _drop(self, key: object) -> None:
        image = self._images.pop(key)
        image.close()
        if image.users:
            self._dropped.append(image)


def _forget_oldest(among: dict[object, int] | dict[object, None]) -> None:
    if len(among) > REMEMBERED:
        del among[next(iter(among))]


def _kill(pid: int) -> None:
    try:
        posix.kill(pid, _signal.SIGKILL)
    except OSError:
        pass


# The maker


def _make(
    report: int,
    answer: int,
    memory: int,
    zygote: int,
    template: int,
    left_out: tuple[int, int],
    product: int,
    values: int,
    most: int,
) -> None:
    """Be the maker; ``zygote`` and ``template`` are their folders in /proc. Never returns."""
    said = _UNFIT + b"the template died"
    try:
        _signal.alarm(MAKE_SECONDS)
        _close_all_but(report, answer, memory, product, zygote, template)
        whole = _PID_BYTES + len(READY) + 8 * values
        heard = b""
        while len(heard) < whole and (part := posix.read(report, whole - len(heard))):
            heard += part
        if len(heard) == whole and heard[_PID_BYTES : _PID_BYTES + len(READY)] == READY:
            status = posix.fstat(product)
            taken = snapshot.Snapshot(zygote, template, left_out, (status.st_dev, status.st_ino))
            segments, end_of_heap = taken.take(memory, most)
            numbers = [number for each in segments for number in each.numbers()]
            found = struct.unpack(f"<{values}q", heard[-8 * values :])
            said = _MADE + pack_numbers(values, end_of_heap, *found, *numbers)
    except (ProcessLookupError, FileNotFoundError):  # of its folder in /proc
        pass
    except (OSError, ValueError, MemoryError, snapshot.Unfit) as error:
        said = _UNFIT + str(error).encode(errors="replace")[:200]
    finally:
        while said:
            said = said[posix.write(answer, said) :]
        posix._exit(0)


def _close_all_but(*kept: int) -> None:
    """Close every other descriptor above the streams: others wait for the ends of some."""
    begin = 3
    for fd in sorted(kept):
        if fd > begin:
            linux.close_range(begin, fd - 1)
        begin = fd + 1
    linux.close_range(begin, linux.LAST_FD)
