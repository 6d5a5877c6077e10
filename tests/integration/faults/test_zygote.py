"""The zygote: small workers, and what becomes of starts when it dies."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sandbox_api.errors import InvalidArgument, Unavailable

from ...harness.bare_forkserver import BareForkserver
from ...harness.container import Pod
from ...harness.daemon import ROOT, Daemon
from ...harness.guests import guest
from ...harness.helpers import forkserver, until_it_asks_a_zygote, zygote

PRIVATE_KIB = 450
"""More than an interpreted ``sleep`` writes to (260), less than Python after a fork (1,300)."""


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """Wasmtime's zygotes are in test_wasmtime.py: it has no interpreter."""
    with Daemon("--aot", "never", "--engine", "auto") as running:
        yield running


def private(pid: int) -> int:
    """KiB of memory that is this process's alone (proc_pid_smaps(5))."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.findall(r"Private_Dirty: +(\d+) kB", text)[0])


def test_an_idle_instance_is_small_and_has_no_compiler(pod: Pod) -> None:
    running = [pod.with_wasm("sleep").build().start() for _ in range(5)]
    for container in running:
        assert private(container.pid) < PRIVATE_KIB
        assert "libLLVM.so" not in Path(f"/proc/{container.pid}/maps").read_text()


def test_workers_are_the_forkservers_children(daemon: Daemon, pod: Pod) -> None:
    container = pod.with_wasm("sleep").build().start()
    assert psutil.Process(container.pid).ppid() == zygote(daemon).ppid() == forkserver(daemon).pid


def test_a_new_zygote_takes_the_place_of_one_that_died(daemon: Daemon, pod: Pod) -> None:
    running = pod.with_wasm("cat").fifos("stdin").build().start()
    first = zygote(daemon)
    first.kill()
    first.wait(10)
    assert pod.with_wasm("exit").args("4").build().start().wait() == 4
    assert running.status() == "RUNNING"
    running.kill(15)
    assert running.wait() == 143
    assert zygote(daemon).pid != first.pid


def test_a_zygote_that_dies_during_a_start(daemon: Daemon, pod: Pod) -> None:
    """The start fails, leaves nothing behind, and may be tried again."""
    pod.with_wasm("exit").args("0").build().start().wait()
    container = pod.with_wasm("exit").args("4").build()
    first = zygote(daemon)
    first.suspend()
    failed: list[Exception] = []

    def start() -> None:
        try:
            container.start()
        except Unavailable as error:
            failed.append(error)

    starting = threading.Thread(target=start)
    starting.start()
    until_it_asks_a_zygote(forkserver(daemon).pid)
    first.kill()
    starting.join(20)
    assert "try again" in str(failed[0])
    assert daemon.workers() == []
    assert container.status() == "CREATED"
    assert container.start().wait() == 4


def test_the_zygote_goes_with_the_forkserver(daemon: Daemon, pod: Pod) -> None:
    pod.with_wasm("exit").args("0").build().start().wait()
    first = zygote(daemon)
    forkserver(daemon).kill()
    first.wait(10)


def _memory(pid: int) -> bytes:
    """All of a process's that can be read (proc_pid_mem(5)) and was ever written to."""
    found = b""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as file:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            begin, end = (int(each, 16) for each in line.split()[0].split("-"))
            if "rw" in line.split()[1] and end - begin < 1 << 28:
                file.seek(begin)
                with contextlib.suppress(OSError):
                    found += file.read(end - begin)
    return found


def test_a_worker_knows_nothing_of_those_before_it(daemon: Daemon, pod: Pod) -> None:
    """Neither from the zygote that forked them all, nor from one that took its place, nor from a new supervisor's."""
    secret = "SECRET=" + "5ec2e7" * 9

    keeper = pod.with_wasm("sleep").process(env=["PADDING=" + "x" * 9000, secret]).build().start()
    assert secret.encode() in _memory(keeper.pid)
    others = [pod.with_wasm("sleep").build().start()]
    first = zygote(daemon)
    first.kill()
    first.wait(30)  # reaped, and so known to be dead: a start that it dies under is to be tried again
    others.append(pod.with_wasm("sleep").build().start())
    daemon.kill()
    daemon.start()
    others.append(pod.with_wasm("sleep").build().start())
    for each in others:
        assert secret.encode() not in _memory(each.pid)


def test_a_worker_does_not_know_the_daemons_folder(daemon: Daemon, pod: Pod) -> None:
    worker = pod.with_wasm("sleep").build().start()
    memory = _memory(worker.pid)
    assert b"/forkserver-" in memory
    assert str(daemon.folder).encode() not in memory


def test_arguments_that_are_too_long_are_refused(pod: Pod) -> None:
    with pytest.raises(InvalidArgument, match="1048576 is the most"):
        pod.with_wasm("hello").args(*["x" * 100_000] * 11).build()
    assert pod.with_wasm("hello").args(*["x" * 100_000] * 10).build().start().wait() == 0


def test_where_no_machine_code_can_be_had_python_does_it(tmp_path: Path) -> None:
    (tmp_path / "pythonic.py").write_text(
        "from workers import forkserver\nfrom workers.calls import machine\n"
        "def main(): machine.run_code = lambda: b''; forkserver.main()\n"
    )
    bare = BareForkserver(broken_out=False, program="pythonic", path=tmp_path)
    try:
        for module, args, status in (("hello", (), 0), ("exit", ("7",), 7), ("trap", (), 134)):
            outcome = bare.run(module, *args, module=guest(module), folders=[(tmp_path, True)])
            assert (outcome.report, outcome.status) == ("R", status), outcome
        refused = bare.run("nonsense", module=Path(__file__))
        assert refused.report == "Xnot a WebAssembly module: it does not begin with \\0asm"
    finally:
        bare.close()


def test_the_forkserver_needs_no_more_than_the_standard_library() -> None:
    """Each module that it imports is one that every fork carries."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); before = set(sys.modules)\n"
        "from workers import forkserver; print(*sorted(set(sys.modules) - before))"
    )
    command = [sys.executable, "-I", "-S", "-c", script, str(ROOT)]
    imported = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    foreign = [name for name in imported if name.partition(".")[0] not in {*sys.stdlib_module_names, "workers"}]
    assert foreign == []
    assert {"enum", "typing", "signal", "socket", "re", "subprocess"}.isdisjoint(imported)
