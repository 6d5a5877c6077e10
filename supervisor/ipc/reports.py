"""A worker's report on its start: read from its pipe, and turned into an error where the guest did not run."""

from __future__ import annotations

import asyncio
import errno
import os
import signal

from sandbox_api.errors import Internal, InvalidArgument, OutOfMemory, SandboxerError, Unavailable
from workers import protocol

from ..host.futures import settle

START_SECTION_SECONDS = 0.5
"""Seconds that a start waits for a module that is loaded: beyond, its start section runs, and it counts as running."""


MAX_REPORT = 64 << 10
"""Bytes of a report."""


_GROUP_GONE = f"{protocol.CGROUP}: {os.strerror(errno.ENODEV)}"
"""What a write says to a file of a control group that is gone (kernfs_fop_write_iter() of fs/kernfs/file.c)."""


class ModuleRefused(InvalidArgument):
    """A worker refuses the module; the text says why, and does not name it."""

    loaded = False
    """Whether it was loaded, and could not be instantiated then."""

    @property
    def unlinked(self) -> bool:
        """Whether the engine lacks what it imports: another may have it."""
        return str(self).startswith(protocol.UNLINKED)


class GroupGone(Unavailable):
    """A control group was removed after its descriptor was opened for the worker; nothing of the guest has run."""

    def __init__(self) -> None:
        super().__init__("the container's control group was removed while it started: start it again")


async def read(pipe: int) -> tuple[bytes, bool]:
    """Read a worker's report up to its end; once its module is loaded, for ``START_SECTION_SECONDS`` at most.

    Answers with it, and whether it has come to its end. What a stranger's module has taken over may write without end:
    beyond ``MAX_REPORT`` it counts as whole.
    """
    loop = asyncio.get_running_loop()
    os.set_blocking(pipe, False)
    report = b""
    try:
        async with asyncio.timeout(None) as limit:
            while True:
                try:
                    part = os.read(pipe, 65536)
                except BlockingIOError:
                    if limit.when() is None and protocol.unpack_report(report)[1]:
                        limit.reschedule(loop.time() + START_SECTION_SECONDS)
                    readable = loop.create_future()
                    loop.add_reader(pipe, settle, readable, None)
                    try:
                        await readable
                    finally:
                        loop.remove_reader(pipe)
                    continue
                report += part
                if not part or len(report) >= MAX_REPORT:
                    return report[:MAX_REPORT], True
    except TimeoutError:
        return report, False


async def undo(report: bytes) -> None:
    """End a worker whose forkserver died before reporting it; it may not be our child."""
    pid, loaded, _ = protocol.unpack_report(report)
    if not loaded:
        return  # it ended by itself, or never was
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    loop.add_reader(pidfd, settle, ended, None)
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        await ended
    except ProcessLookupError:
        pass
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)


def refusal(verdict: bytes, status: int, killed: bool, loaded: bool = False) -> SandboxerError:
    """The error for a start whose worker gave this verdict and exited with this wait status."""
    text = verdict[1:].decode(errors="replace") or "the worker gave no reason"
    if verdict[:1] == protocol.REFUSED:
        refused = ModuleRefused(text)
        refused.loaded = loaded
        return refused
    if verdict[:1] == protocol.FAILED:
        return GroupGone() if text == _GROUP_GONE else Internal(text)
    if status == signal.SIGKILL and not killed:
        return OutOfMemory("the worker was killed before the guest ran: its memory limit, or the node's, is reached")
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = f"signal {number}"
        return Internal(f"the worker was ended by {name} before the guest ran")
    return Internal(f"the worker ended with status {os.waitstatus_to_exitcode(status)} before the guest ran")
