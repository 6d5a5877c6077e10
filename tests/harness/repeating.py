"""A daemon between which and its helpers each frame comes twice, both ways: ``-m tests.harness.repeating`` in place of
``-m supervisor``. STARTs come twice where REPEAT_STARTS is set: each costs the connection.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from supervisor.cli import main
from supervisor.ipc.channel import HelperChannel
from workers.protocol import START, Frame, Reader

_send, _frames = HelperChannel.send, Reader.frames


def _send_twice(self: HelperChannel, kind: int, body: bytes, fds: Sequence[int] = ()) -> None:
    _send(self, kind, body, fds)
    if (kind != START or "REPEAT_STARTS" in os.environ) and self.connected:
        _send(self, kind, body, fds)


def _hear_twice(self: Reader) -> Iterable[Frame]:
    for frame in _frames(self):
        again = Frame(frame.kind, frame.body, [os.dup(fd) for fd in frame.fds], frame.lost)
        yield frame
        yield again


if __name__ == "__main__":
    HelperChannel.send = _send_twice  # type: ignore[method-assign]
    Reader.frames = _hear_twice  # type: ignore[method-assign]
    main(prog_name="wasm-sandboxer")
