"""Errors that are made of a worker's report."""

from __future__ import annotations

import asyncio
import errno
import os
import threading

import pytest

from sandbox_api.errors import Internal
from supervisor.ipc import reports
from workers.failures import CGROUP, TOLD


@pytest.mark.parametrize(("verdict", "kind"), [(b"X", reports.ModuleRefused), (b"F", Internal)])
def test_a_refusal_without_a_reason_says_so(verdict: bytes, kind: type[Exception]) -> None:
    error = reports.refusal(verdict, 256, False)
    assert isinstance(error, kind)
    assert str(error) == "the worker gave no reason"
    assert str(reports.refusal(verdict + b"why\xff", 256, False)) == "why\ufffd"


def test_a_control_group_that_is_gone_is_told_by_its_error_number() -> None:
    told = TOLD[CGROUP] % os.strerror(errno.ENODEV).encode()
    with pytest.raises(reports.GroupGone, match="removed while it started: start it again"):
        raise reports.refusal(told, 125 << 8, False)
    denied = reports.refusal(TOLD[CGROUP] % b"Permission denied", 125 << 8, False)
    assert isinstance(denied, Internal)
    assert str(denied) == "cgroup: Permission denied"


@pytest.mark.parametrize("begin", [b"\1\0\0\0", b"\1\0\0\0L"])
def test_a_report_without_end_ends(begin: bytes) -> None:
    """It was read on for as long as the worker wrote, before everybody else's calls, into the daemon's memory."""
    pipe, theirs = os.pipe()
    gone = threading.Event()

    def write() -> None:
        try:
            os.write(theirs, begin)
            while True:
                os.write(theirs, bytes(1 << 16))
        except OSError:
            gone.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        report, whole = asyncio.run(asyncio.wait_for(reports.read(pipe), 20))
    finally:
        os.close(pipe)
        writer.join(20)
        os.close(theirs)
    assert (len(report), whole) == (reports.MAX_REPORT, True)
    assert report.startswith(begin)
    assert gone.is_set()
