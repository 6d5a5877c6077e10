"""The supervisor's side of the logger: containers' output goes to their logs, whichever of the three dies.

A guest writes to FIFOs in a folder of ours, and holds their writing ends alone. So the logger sees the guest's end,
and a guest whose logger died waits for the next one.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sandbox_api.errors import InvalidArgument, SandboxerError, Unavailable
from workers import protocol, relay_protocol

from ..host import errors
from ..host.counters import Counters
from ..host.futures import fail, settle
from ..oci import container_log
from ..oci.container_log import Log
from .earlier_helper import ANSWER_SECONDS, EarlierHelper
from .helper_client import HelperClient

log = logging.getLogger(__name__)

FINISH_SECONDS = 10.0
"""Seconds that an ended guest's log may take to be complete; then its end is told even so."""


@dataclass(slots=True)
class _Logged:
    """A guest whose output is logged."""

    container_id: str
    where: Log
    held: list[int] = field(default_factory=list)
    """Reading ends of its FIFOs, while there is no logger."""
    finishing: asyncio.Task[None] | None = None

    def release(self) -> None:
        """Close what was held."""
        for fd in self.held:
            os.close(fd)
        self.held.clear()


class LoggerClient(HelperClient):
    """Has guests' output logged."""

    def __init__(self, path: str, folder: Path, counters: Counters | None = None) -> None:
        """``folder`` is for FIFOs, and made when it is needed."""
        super().__init__("logger", path, counters)
        self._folder = folder
        self._guests: dict[int, _Logged] = {}  # by instance
        self._answers: dict[int, asyncio.Future[int]] = {}
        self._finished: dict[int, asyncio.Future[None]] = {}
        self._elsewhere: dict[int, EarlierHelper] = {}  # loggers that other builds left, by the instances they log
        self._released: dict[EarlierHelper, asyncio.Future[tuple[int, ...]]] = {}
        self._continuing: set[asyncio.Task[None]] = set()

    async def start(self, instance: int, container_id: str, where: Log) -> tuple[int, int]:
        """Begin an instance's log; what it is to have as stdout and stderr, the caller's to close.

        Raises ``InvalidArgument`` where the log cannot be opened, ``ResourceExhausted``, ``Unavailable``.
        """
        self._folder.mkdir(mode=0o700, exist_ok=True)
        guest = _Logged(container_id, where)
        theirs: list[int] = []
        try:
            for path in self._fifos(instance):
                path.unlink(missing_ok=True)
                os.mkfifo(path, 0o600)
                theirs.append(os.open(path, os.O_RDWR | os.O_CLOEXEC))
            self._hold(instance, guest)
            await self._begin(instance, guest)
        except BaseException as error:
            for fd in theirs:
                os.close(fd)
            self._unlink(instance)
            if isinstance(error, OSError):
                raise errors.for_errno(error, InvalidArgument)(f"its log: {error.strerror}") from None
            raise
        finally:
            guest.release()
        self._guests[instance] = guest
        return theirs[0], theirs[1]

    def instances(self) -> set[int]:
        """List the instances whose output was being logged when an earlier supervisor went."""
        if not self._folder.is_dir():
            return set()
        return {int(path.stem) for path in self._folder.iterdir() if path.stem.isdecimal()}

    async def resume(self, running: dict[int, tuple[str, Log]]) -> None:
        """Continue the logs of an earlier supervisor's guests; those of others that are left are completed."""
        await self._release_earlier()
        for instance, (container_id, where) in running.items():
            self._guests[instance] = _Logged(container_id, where)
            if instance not in self._elsewhere:
                await self._continue(instance)
        for instance in self.instances() - self._guests.keys():
            self._guests[instance] = _Logged(f"of instance {instance}", container_log.JsonLog(""))
            self.finish_soon(instance)

    async def _continue(self, instance: int) -> None:
        """Have our logger go on with an instance's log."""
        guest = self._guests[instance]
        try:
            await self.ready()  # first: one that is joined is handed all that is held
            self._hold(instance, guest)
            await self._begin(instance, guest)
        except (SandboxerError, OSError) as error:
            log.error("container %s: its log does not continue: %s", guest.container_id, error)
        finally:
            guest.release()

    async def _release_earlier(self) -> None:
        """Have the loggers that other builds left begin no more logs; hear which they have. Raises ``HelperFailed``."""
        for earlier in await self._join_earlier():
            said = asyncio.get_running_loop().create_future()
            self._released[earlier] = said
            earlier.tell(relay_protocol.RELEASE)
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    self._elsewhere |= dict.fromkeys(await said, earlier)
            except (Unavailable, TimeoutError):
                log.error("a logger of another build does not answer: its logs continue in ours")
            finally:
                del self._released[earlier]

    def finish_soon(self, instance: int) -> None:
        """Begin to complete an instance's log, if it has one: it has ended."""
        guest = self._guests.get(instance)
        if guest is not None and guest.finishing is None:
            guest.finishing = asyncio.ensure_future(self._finish(instance, guest))

    async def finish(self, instance: int) -> None:
        """Return when all that an ended instance wrote is in its log, if it has one."""
        self.finish_soon(instance)
        guest = self._guests.get(instance)
        if guest is not None and guest.finishing is not None:
            await asyncio.shield(guest.finishing)

    async def _finish(self, instance: int, guest: _Logged) -> None:
        answer = self._finished[instance] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(FINISH_SECONDS):
                while True:
                    try:
                        if earlier := self._elsewhere.get(instance):
                            earlier.send(relay_protocol.FINISH, instance)
                        else:
                            await self.ready()
                            self._helper.send(relay_protocol.FINISH, protocol.pack_numbers(instance))
                        await answer
                        break
                    except Unavailable:  # it died: the next one has what the guest's FIFOs hold
                        answer = self._finished[instance] = asyncio.get_running_loop().create_future()
                        await asyncio.sleep(0.05)
        except TimeoutError:
            log.error("container %s: its log is not complete after %g s", guest.container_id, FINISH_SECONDS)
        finally:
            del self._finished[instance]
            del self._guests[instance]
            self._elsewhere.pop(instance, None)
            guest.release()
            self._unlink(instance)

    async def _begin(self, instance: int, guest: _Logged) -> None:
        """Have a guest's log written, from the FIFO ends that are held. Raises a ``SandboxerError`` or ``OSError``."""
        await self.ready()
        answer = self._answers[instance] = asyncio.get_running_loop().create_future()
        try:
            self._send(instance, guest)
            async with asyncio.timeout(ANSWER_SECONDS):
                error = await answer
        except TimeoutError:
            raise Unavailable("the logger does not answer: try again") from None
        finally:
            del self._answers[instance]
        if error:
            raise OSError(error, os.strerror(error))

    def _send(self, instance: int, guest: _Logged) -> None:
        numbers, name = container_log.encode(guest.where)
        body = protocol.pack([protocol.pack_numbers(instance, *numbers), guest.container_id.encode(), name])
        folder = container_log.open_folder(guest.where, guest.container_id)
        try:
            self._helper.send(relay_protocol.LOG, body, [*guest.held, folder])
        finally:
            os.close(folder)

    def _hold(self, instance: int, guest: _Logged) -> None:
        for path in self._fifos(instance):
            guest.held.append(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))

    def _hand_over(self) -> None:
        for instance, guest in self._guests.items():
            if guest.held:
                try:
                    self._send(instance, guest)
                except SandboxerError as error:
                    log.error("container %s: its log does not continue: %s", guest.container_id, error)
                guest.release()

    def _forget(self) -> None:
        for instance, guest in self._guests.items():
            if instance in self._elsewhere or guest.held:  # held already: the one that died had not been handed it
                continue
            try:
                self._hold(instance, guest)
            except OSError as error:
                log.error("container %s: its log ends here: %s", guest.container_id, error.strerror)

    def _take_frame(self, frame: protocol.Frame) -> None:
        match frame.kind, protocol.unpack_numbers(frame.body):
            case relay_protocol.LOGGING, (instance, error, *_):
                settle(self._answers.get(instance), error)
                if error and instance in self._guests and instance not in self._answers:
                    name = self._guests[instance].container_id
                    log.error("container %s: its log does not continue: %s", name, os.strerror(error))
            case relay_protocol.FINISHED, (instance, *_):
                settle(self._finished.get(instance), None)

    def _take_earlier(self, earlier: EarlierHelper, frame: protocol.Frame) -> None:
        if frame.kind == relay_protocol.LOGS:
            settle(self._released.get(earlier), protocol.unpack_numbers(frame.body))
        elif frame.kind == relay_protocol.FINISHED:
            self._take_frame(frame)

    def _lose_earlier(self, earlier: EarlierHelper) -> None:
        """One has gone: if it had logs still, they go on in ours, from what the guests' FIFOs hold."""
        super()._lose_earlier(earlier)
        if self._ending:
            return
        error = Unavailable("the logger died: try again")
        if earlier in self._released:
            self._released[earlier].set_exception(error)
        for instance in [instance for instance, each in self._elsewhere.items() if each is earlier]:
            del self._elsewhere[instance]
            fail(self._finished.get(instance), error)
            if instance in self._guests:
                task = asyncio.ensure_future(self._continue(instance))
                self._continuing.add(task)
                task.add_done_callback(self._continuing.discard)

    def _pending(self) -> Iterator[asyncio.Future[Any] | None]:
        yield from self._answers.values()
        yield from self._finished.values()

    def _fifos(self, instance: int) -> tuple[Path, Path]:
        return self._folder / f"{instance}.out", self._folder / f"{instance}.err"

    def _unlink(self, instance: int) -> None:
        for path in self._fifos(instance):
            path.unlink(missing_ok=True)
