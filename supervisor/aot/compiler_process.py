"""One compile, in a process of its own (``workers/compiler.py``)."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from dataclasses import dataclass
from pathlib import Path

import psutil

from workers import compile_protocol, protocol

from ..host import build, errors, interpreters
from ..host.futures import settle
from .terms import LARGE, EngineLibrary, Level, Limits, Verdict

_VERDICTS = {
    compile_protocol.MADE: Verdict.MADE,
    compile_protocol.REFUSED: Verdict.REFUSED,
    compile_protocol.CRASHED: Verdict.CRASHED,
    compile_protocol.TIMED_OUT: Verdict.TIMED_OUT,
    compile_protocol.NO_MEMORY: Verdict.NO_MEMORY,
    compile_protocol.UNABLE: Verdict.UNABLE,
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a compile. With ``Verdict.MADE`` the caller owns ``product``, a descriptor of the shared object."""

    verdict: Verdict
    text: str = ""
    product: int = -1
    flags: int = 0
    """Bits of ``compile_protocol``: traits of the module."""
    memory: int = 0
    """The most bytes that it had."""
    lacking: int = 0
    """With ``Verdict.UNABLE`` an errno: what this process ran out of, for now."""


@dataclass(frozen=True, slots=True)
class CompilerProcess:
    """Settings that all compiles of a sandboxer share."""

    engine: EngineLibrary
    limits: Limits
    workshop: Path
    filter: bytes
    """The seccomp program; empty where there is none."""
    pids: set[int]
    """Pids of compiling processes that are our children; filled in here."""

    def limits_of(self, size: int) -> Limits:
        """Limits of a compile of so many bytes, within what the machine has free now."""
        return self.limits.grown(size, psutil.virtual_memory().available) if size > LARGE else self.limits

    async def compile(self, module: int, level: Level, idle: bool) -> Outcome:
        """Compile the opened module. Where this is cancelled, the compiler ends.

        ``idle`` leaves the processors to everybody else.
        """
        limits = self.limits_of(os.fstat(module).st_size)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        request = compile_protocol.Request(
            engine=self.engine.name,
            version=self.engine.version.encode(),
            library=os.fsencode(self.engine.path),
            level=level,
            milliseconds=max(1, int(limits.seconds * 1000)),
            memory=limits.memory,
            idle=idle,
            workshop=os.fsencode(self.workshop),
            filter=self.filter,
        )
        loop = asyncio.get_running_loop()
        reader = protocol.Reader(ours)
        answered: asyncio.Future[protocol.Frame | None] = loop.create_future()
        try:
            with theirs:
                build.check()
                protocol.send(ours, compile_protocol.COMPILE, request.encode(), [module])
                self.pids.add(pid := interpreters.spawn("compiler", stdin=theirs.fileno()))
            loop.add_reader(ours, _hear, reader, answered)
            frame = await answered
            self.pids.discard(pid)  # not where this is cancelled: it still lives then
            return _outcome(frame)
        except OSError as error:
            text = f"no compiler could be started: {error.strerror}"
            return Outcome(Verdict.UNABLE, text, lacking=errors.lacking(error))
        finally:
            loop.remove_reader(ours)
            reader.close()


def _hear(reader: protocol.Reader, answered: asyncio.Future[protocol.Frame | None]) -> None:
    try:
        more = reader.receive()
        for frame in reader.frames():
            if answered.done():
                frame.close()
            else:
                answered.set_result(frame)
    except BlockingIOError:
        return
    except (OSError, protocol.ProtocolError):
        more = False
    if not more:
        settle(answered, None)


def _outcome(frame: protocol.Frame | None) -> Outcome:
    if frame is None:
        return Outcome(Verdict.UNABLE, "the compiler's parent process was killed")
    if frame.body[:1] not in _VERDICTS:
        frame.close()
        return Outcome(Verdict.UNABLE, "the compiler's parent process answered what is no verdict")
    verdict = _VERDICTS[frame.body[:1]]
    if verdict is Verdict.MADE and len(frame.fds) == 1:
        flags, kibibytes = frame.body[1:2], frame.body[2:10]
        return Outcome(verdict, "", frame.fds.pop(), int.from_bytes(flags), int.from_bytes(kibibytes, "little") << 10)
    frame.close()
    if verdict is not Verdict.MADE:
        return Outcome(verdict, frame.body[1:].decode(errors="replace"))
    if frame.lost:
        return Outcome(Verdict.UNABLE, f"what was compiled: {os.strerror(errno.EMFILE)}", lacking=errno.EMFILE)
    return Outcome(Verdict.UNABLE, "the compiler's parent process answered without what was compiled")
