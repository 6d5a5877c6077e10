"""Components by jco: C programs with the adapter for WASI's preview 1 (``component new``), and one in JavaScript."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from ..harness.compiled import until
from ..harness.container import Pod, ready_pod
from ..harness.daemon import Daemon
from ..harness.guests import CACHE
from ..harness.jco import adapted, script


@pytest.fixture(scope="module")
def sandboxer() -> Iterator[Daemon]:
    """A sandboxer that keeps what it compiles."""
    with Daemon("--cache-dir", str(CACHE / "aot")) as running:
        yield running


@pytest.fixture
def pod(sandboxer: Daemon) -> Iterator[Pod]:
    with ready_pod(sandboxer) as made:
        yield made


def test_an_adapted_program_has_arguments_environment_and_input(pod: Pod) -> None:
    told = pod.with_wasm(adapted("args")).args("one", "two words").env(NAME="a value").build().start()
    assert told.wait() == 0
    assert told.stdout().splitlines()[-3:] == ["arg one", "arg two words", "env NAME=a value"]
    reading = pod.with_wasm(adapted("cat")).fifos("stdin").build().start()
    (reading.bundle / "stdin").write_text("some input\n")
    assert reading.wait() == 0
    assert reading.stdout() == "some input\n"


def test_an_adapted_program_reaches_files_as_its_preopens_say(pod: Pod) -> None:
    files = pod.with_wasm(adapted("files")).file("in", "text").args("r /in", "w /out new", "r /out").build().start()
    assert files.wait() == 0
    assert files.stdout() == "/in: text\n/out: written\n/out: new\n"
    readonly = pod.with_wasm(adapted("files")).readonly().args("w /out new").build().start()
    assert readonly.wait() == 0
    assert "written" not in readonly.stdout()


@pytest.mark.parametrize(("asked", "status"), [("0", 0), ("1", 1), ("7", 1)])
def test_an_adapted_program_can_only_end_well_or_not(pod: Pod, asked: str, status: int) -> None:
    """WASI 0.2's ``exit`` takes no number: the adapter makes 1 of all but 0."""
    assert pod.with_wasm(adapted("exit")).args(asked).build().start().wait() == status


def test_an_adapted_program_traps_is_killed_and_has_a_memory_limit(pod: Pod) -> None:
    trapped = pod.with_wasm(adapted("trap")).build().start()
    assert trapped.wait() == 134
    assert "wasm trap: wasm `unreachable` instruction executed" in trapped.stderr()
    asleep = pod.with_wasm(adapted("sleep")).build().start()
    until("asleep", lambda: asleep.stdout() == "up\n")
    asleep.kill(signal.SIGTERM)
    assert asleep.wait() == 128 + signal.SIGTERM
    limit = {"memory": {"limit": 64 << 20}}
    assert pod.with_wasm(adapted("memory")).args("10").linux(resources=limit).build().start().wait() == 0
    assert pod.with_wasm(adapted("memory")).args("100").linux(resources=limit).build().start().wait() == 1


def test_a_program_in_javascript(pod: Pod) -> None:
    good = pod.with_wasm(script()).args("say", "one", "two").env(NAME="a value").build()
    good.connection.sock.settimeout(300)  # the first is compiled before it starts
    assert good.start().wait() == 0, good.stderr()
    assert good.stdout() == "say ONE TWO a value\n"
    assert pod.with_wasm(script()).args("fail").build().start().wait() == 1
