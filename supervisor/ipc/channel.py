"""A helper process, forkserver or relay: joined where it still runs, started where it does not.

Each listens on a socket of its own and outlives the supervisor. It is a fresh interpreter, because the
supervisor has gRPC's threads and must not fork.
"""

from __future__ import annotations

import array
import asyncio
import os
import select
import signal
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sandbox_api.errors import Unavailable
from workers import protocol

from ..host import build, interpreters

START_SECONDS = 30.0
DIAL_SECONDS = 1.0
_READY = b"ready\n"


class HelperFailed(Exception):
    """The helper could not be started; the text is its own last line."""


def _spawn(module: str, argument: str, folder: str) -> tuple[int, BinaryIO]:
    """Start a helper: its pid, and where it says that it is ready. Raises ``HelperFailed``."""
    ours, theirs = os.pipe()
    said = os.fdopen(ours, "rb")
    try:
        build.check()
        return interpreters.spawn(module, argument, stdout=theirs, folder=folder), said
    except OSError as error:
        said.close()
        raise HelperFailed(f"the {module} could not be started: {error.strerror}") from None
    finally:
        os.close(theirs)


def _hear_ready(module: str, said: BinaryIO) -> None:
    """Wait for a helper's first line. Blocking; raises ``HelperFailed``."""
    with said:
        line = said.readline()
    if line != _READY:
        raise HelperFailed(line.decode(errors="replace").strip() or f"the {module} ended before it was ready")


@dataclass(slots=True)
class _Outgoing:
    """A frame on its way: bytes and rights still to send, and descriptors that were duplicated for the wait."""

    data: bytes
    rights: list[tuple[int, int, array.array[int]]]
    owned: bool = False

    def keep(self) -> None:
        """Hold the descriptors by duplicates while the frame waits, since the caller may close its own.

        Raises ``OSError``.
        """
        if not self.owned:
            copies: list[int] = []
            try:
                for _, _, fds in self.rights:
                    copies += map(os.dup, fds)
            except OSError:
                for fd in copies:
                    os.close(fd)
                raise
            for _, _, fds in self.rights:
                for i in range(len(fds)):
                    fds[i] = copies.pop(0)
            self.owned = True

    def close(self) -> None:
        if self.owned:
            for _, _, fds in self.rights:
                for fd in fds:
                    os.close(fd)


def socket_path(folder: str, module: str) -> str:
    """The path of a helper's socket, named after our build."""
    return f"{folder}/{module}-{build.name()}.sock"


def others(path: str) -> list[str]:
    """Paths of sockets of the same helper that other builds, or other versions, left beside this one's."""
    here = Path(path)
    module = here.stem.partition("-")[0]
    return sorted(str(each) for each in here.parent.glob(f"{module}*.sock") if each != here)


class HelperChannel:
    """A connection to a helper process. Frames that arrive go to ``on_frame``; its loss to ``on_lost``."""

    def __init__(
        self,
        module: str,
        path: str,
        on_frame: Callable[[protocol.Frame], None],
        on_lost: Callable[[], None],
        argument: str = "",
    ) -> None:
        """The helper is started in the folder of ``path`` and given ``argument``, or else the path itself."""
        self._module = module
        self._path = path
        self._argument = argument or path
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._sock: socket.socket | None = None
        self._reader: protocol.Reader | None = None
        self._queue: deque[_Outgoing] = deque()
        self._writing = False
        self.pid = 0
        """Pid of the helper, if we started it, also while it gets ready; a child of ours."""

    @property
    def connected(self) -> bool:
        """Whether there is a connection."""
        return self._sock is not None

    async def connect(self) -> None:
        """Join the helper that listens on the path, or start one. Raises ``HelperFailed``."""
        if self.join():
            return
        # Here and not in a thread: a child whose pid nobody knows counts as a worker where a forkserver dies just now.
        self.pid, said = _spawn(self._module, self._argument, str(Path(self._path).parent))
        try:
            async with asyncio.timeout(START_SECONDS):
                await asyncio.to_thread(_hear_ready, self._module, said)
        except HelperFailed:
            self.pid = 0  # it ends by itself, and the reaper may have collected it already: its pid could be another's
            raise
        except TimeoutError:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)  # else the thread that waits for its word is lost
            self.pid = 0
            late = f"the {self._module} was not ready within {START_SECONDS:g} s: it was killed"
            raise HelperFailed(late) from None
        if not self.join():
            raise HelperFailed(f"the {self._module} does not answer on {self._path}")

    def join(self) -> bool:
        """Join the helper that listens on the path; false where none does. A dead one's socket is removed."""
        self.close()
        sock = self._dial()
        if sock is None:
            Path(self._path).unlink(missing_ok=True)
            return False
        sock.setblocking(False)
        self._sock = sock
        self._reader = protocol.Reader(sock)
        asyncio.get_running_loop().add_reader(sock.fileno(), self._readable)
        return True

    def answers(self) -> bool:
        """Whether a helper listens on the path. Takes the place of its supervisor for that moment."""
        sock = self._dial()
        if sock is not None:
            sock.close()
        return sock is not None

    def send(self, kind: int, body: bytes, fds: Sequence[int] = ()) -> None:
        """Send a frame, now or as soon as the socket takes it. The descriptors stay the caller's.

        Raises ``Unavailable`` where there is no connection, and ``OSError`` where its descriptors cannot be held.
        """
        if self._sock is None:
            raise Unavailable(f"the {self._module} is not connected: try again")
        frame = _Outgoing(*protocol.encode(kind, body, fds))
        if self._writing:
            frame.keep()
            self._queue.append(frame)
        else:
            self._queue.append(frame)
            self._flush()

    def close(self) -> None:
        """Disconnect; the helper keeps running."""
        if self._sock is None or self._reader is None:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._sock.fileno())
        if self._writing:
            loop.remove_writer(self._sock.fileno())
        self._writing = False
        self._drop_queue()
        self._reader.close()
        self._sock = self._reader = None

    @property
    def peer(self) -> int:
        """Pid of the helper, also of one that we did not start; 0 where there is no connection."""
        if self._sock is None:
            return 0
        pid, _, _ = struct.unpack("3i", self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return int(pid)

    def kill(self) -> None:
        """Kill a helper that does not answer, and disconnect."""
        if self._sock is not None:
            pid = self.peer
            self.close()
            with suppress(ProcessLookupError):
                pidfd = os.pidfd_open(pid)
                try:
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    select.select([pidfd], [], [], START_SECONDS)  # SIGKILL ends what is stopped, too
                finally:
                    os.close(pidfd)

    def _dial(self) -> socket.socket | None:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(DIAL_SECONDS)  # of one that is stopped the queue fills up, and the next would wait for ever
        try:
            sock.connect(self._path)
        except OSError:
            sock.close()
            return None
        return sock

    def _readable(self) -> bool:
        """Take what has come; false where there is nothing more for now, or the helper is gone."""
        if self._reader is None:
            return False
        try:
            more = self._reader.receive()
            for frame in self._reader.frames():
                self._on_frame(frame)
        except BlockingIOError:
            return False
        except (OSError, ValueError, protocol.ProtocolError):  # ValueError: too few numbers, or too many
            more = False
        if not more:
            self._lost()
        return more

    def _flush(self) -> None:
        assert self._sock is not None
        loop = asyncio.get_running_loop()
        try:
            while self._queue:
                frame = self._queue[0]
                sent = self._sock.sendmsg([frame.data], frame.rights, socket.MSG_NOSIGNAL)
                frame.close()
                frame.data, frame.rights = frame.data[sent:], []
                if not frame.data:
                    self._queue.popleft()
        except BlockingIOError:
            if not self._writing:
                try:
                    frame.keep()  # the only one: others were added while we wait
                except OSError:
                    self._queue.clear()
                    raise
                self._writing = True
                loop.add_writer(self._sock.fileno(), self._flush)
            return
        except OSError:
            self._hear_the_rest()
            return
        if self._writing:
            self._writing = False
            loop.remove_writer(self._sock.fileno())

    def _hear_the_rest(self) -> None:
        """Send nothing more, and hang up when all is heard that is in the socket.

        The helper is gone; or the kernel has no memory for a frame, and what comes behind a lost one means nothing.
        """
        assert self._sock is not None
        loop = asyncio.get_running_loop()
        if self._writing:
            self._writing = False
            loop.remove_writer(self._sock.fileno())
        self._drop_queue()
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
        loop.call_soon(self._drain, self._sock)

    def _drain(self, sock: socket.socket) -> None:
        while self._sock is sock and self._readable():
            pass
        if self._sock is sock:
            self._lost()

    def _drop_queue(self) -> None:
        while self._queue:
            self._queue.popleft().close()

    def _lost(self) -> None:
        if self._sock is not None:
            self.close()
            self._on_lost()
