"""Running a created process in the foreground: its streams, its terminal, its signals and its exit status."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable

import click

from sandbox_api.proto import task_pb2 as pb

from .client import CallFailed, Tasks
from .streams import Streams, raw_terminal

_PATIENCE = 2
"""Signals that may wait for the daemon's answer: the third one ends the command, as it ends docker's."""
_FORWARDED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class StartCancelled(Exception):
    """A signal came before the process ran; ``status`` is the command's. The start itself may still come through."""

    def __init__(self, number: int) -> None:
        super().__init__(f"cancelled by signal {number}")
        self.status = 128 + number


def check_terminal(stdin: bool, terminal: bool) -> None:
    """Raise ``UsageError`` where a terminal is asked for and there is none."""
    if terminal and not (sys.stdout.isatty() and (sys.stdin.isatty() or not stdin)):
        raise click.UsageError("-t: standard input or output is not a terminal: leave it out")


async def run_attached(
    tasks: Tasks, container: str, exec_id: str, streams: Streams, terminal: bool, start: Callable[[], Awaitable[object]]
) -> int:
    """Start a process whose streams these are, and wait for it; its exit status. Raises ``CallFailed``.

    Raises ``StartCancelled`` at a signal before it runs: the caller then removes what the daemon has made of its start.
    A signal that comes while the daemon answers none is the status.
    """
    loop = asyncio.get_running_loop()
    running = False
    ourselves = asyncio.current_task()
    assert ourselves is not None
    early: list[int] = []
    under_way: set[asyncio.Task[None]] = set()

    unanswered = 0

    def spawn(work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        under_way.add(task)
        task.add_done_callback(under_way.discard)

    async def send(number: int) -> None:
        nonlocal unanswered
        with contextlib.suppress(CallFailed):  # it has ended
            await tasks.tell("Kill", pb.KillRequest(id=container, exec_id=exec_id, signal=number))
        unanswered -= 1

    def forward(number: int) -> None:
        nonlocal unanswered
        if running and unanswered < _PATIENCE:
            unanswered += 1
            spawn(send(number))
        elif number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
            early.append(number)
            ourselves.cancel()

    async def close_input() -> None:
        with contextlib.suppress(CallFailed):
            await tasks.tell("CloseIO", pb.CloseIORequest(id=container, exec_id=exec_id, stdin=True))

    async def resize() -> None:
        size = os.get_terminal_size(1)
        request = pb.ResizePtyRequest(id=container, exec_id=exec_id, width=size.columns, height=size.lines)
        with contextlib.suppress(CallFailed):  # it has ended
            await tasks.tell("ResizePty", request)

    streams.on_input_end = lambda: _tell(loop, lambda: spawn(close_input()))
    streams.on_output_lost = lambda: _tell(loop, lambda: forward(signal.SIGPIPE))
    for number in _FORWARDED:
        loop.add_signal_handler(number, forward, number)
    # Asked first: a short process may be over, and removed, by the time that its start is answered.
    end = asyncio.ensure_future(tasks.call("Wait", pb.WaitRequest(id=container, exec_id=exec_id), pb.WaitResponse))
    try:
        await start()
        running = True
        with contextlib.ExitStack() as stack:
            if terminal:
                loop.add_signal_handler(signal.SIGWINCH, lambda: spawn(resize()))
                stack.callback(loop.remove_signal_handler, signal.SIGWINCH)
                if sys.stdin.isatty():
                    stack.enter_context(raw_terminal())
                await resize()
            streams.begin()  # not before the terminal is raw: it would make lines of what comes
            ended = await end
            await asyncio.to_thread(streams.finish)
        return ended.exit_status
    except asyncio.CancelledError:
        if not early:
            raise
        ourselves.uncancel()
        if not running:
            raise StartCancelled(early[0]) from None
        return 128 + early[0]
    finally:
        end.cancel()
        await asyncio.gather(end, return_exceptions=True)
        for number in _FORWARDED:
            loop.remove_signal_handler(number)


def _tell(loop: asyncio.AbstractEventLoop, what: Callable[[], None]) -> None:
    """Have something done by the loop, from another thread; not where all is over by now."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(what)
