"""An image under way: neither the template nor the maker outlives its time, whatever happens to the other."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from workers import protocol
from workers.images import snapshot
from workers.images.making import Making

ROOT = Path(__file__).resolve().parent.parent.parent

# The template is a fork that says what the test wants; this process stands for the forkserver and the zygote.
SCRIPT = """
import os, select, signal, sys, time
from workers.images import making
from workers.images.making import Making, Template
making.MAKE_SECONDS = 0.5
signal.pthread_sigmask(signal.SIG_BLOCK, {34})  # ends of forks are told by it
report, theirs = os.pipe()
template = os.fork()
if not template:
    os.close(report)
    os.write(theirs, eval(sys.argv[1]))
    if sys.argv[2] == "die":
        os._exit(0)
    signal.pause()
os.close(theirs)
if sys.argv[2] == "die":
    os.waitid(os.P_PID, template, os.WEXITED | os.WNOWAIT)
product = os.open("/dev/null", os.O_RDONLY)
under_way = Making(Template(template, report, 1, os.getpid(), (0, 1), product), 64 << 20)
(maker,) = under_way._pids - {template}
print(template, maker, flush=True)
if sys.argv[2] == "forkserver":
    os._exit(0)
if sys.argv[2] == "stopped":
    os.kill(maker, signal.SIGSTOP)
while select.select([under_way], [], [], max(0, under_way.seconds_left - 0.9))[0] and not under_way.receive():
    pass
time.sleep(max(0, under_way.seconds_left - 0.9) if sys.argv[2] == "stopped" else 0)
try:
    print(len(under_way.image(1, b"").segments), flush=True)
except making.snapshot.Unfit as error:
    print(error, flush=True)
under_way.close()
for pid in (template, maker):
    os.waitpid(pid, 0x40000000)
"""
READY = "os.getpid().to_bytes(4, 'little') + b'R' + bytes(8)"


def run(said: str, what: str = "") -> tuple[list[int], str]:
    """The pids of template and maker, and what came of it."""
    command = [sys.executable, "-c", SCRIPT, said, what]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    pids, _, rest = done.stdout.partition("\n")
    return [int(pid) for pid in pids.split()], rest.strip()


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != "zombie"
    except psutil.NoSuchProcess:
        return False


def gone(pids: list[int]) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if not any(map(lives, pids)):
            return True
        time.sleep(0.02)
    return False


def test_a_template_that_is_ready_becomes_an_image() -> None:
    pids, said = run(READY)
    assert int(said) > 0
    assert gone(pids)


@pytest.mark.parametrize(
    ("said", "what", "why"),
    [
        ("b''", "die", "the template died"),
        (READY, "die", "the template died"),
        ("b'no such report'", "", "the template died"),
        ("b''", "", "it took too long"),
        ("b''", "stopped", "the maker died"),
    ],
    ids=[
        "it dies",
        "it dies when it has said all",
        "it says something else",
        "it never says anything",
        "the maker is stopped",
    ],
)
def test_failed_images_end_in_time_and_leave_no_process(said: str, what: str, why: str) -> None:
    pids, reason = run(said, what)
    assert reason == why
    assert gone(pids)


def test_a_forkserver_that_dies_leaves_neither_template_nor_maker() -> None:
    pids, _ = run("b''", "forkserver")
    assert len(pids) == 2
    assert gone(pids), [os.readlink(f"/proc/{pid}/exe") for pid in pids]


@pytest.mark.parametrize("left", [4, 9, 25, 40])
def test_a_maker_that_dies_within_its_answer_has_made_nothing(left: int) -> None:
    """Without the numbers that are missing, its instances would lack memory."""
    answer = b"I" + protocol.pack_numbers(1, 0, 7, *range(5))
    making = Making.__new__(Making)
    making._said = (protocol.pack_numbers(len(answer)) + answer)[:left]
    making._began = time.monotonic()
    with pytest.raises(snapshot.Unfit, match="the maker died"):
        making.image(1, b"digest")
