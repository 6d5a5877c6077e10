"""Large programs: an SMT solver by both engines, a synthesis suite that only Wasmtime runs, and Ruby."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..bench import programs
from ..harness.container import Container, Pod, ready_pod
from ..harness.daemon import Daemon
from ..harness.guests import CACHE
from ..harness.ruby import SAYS_VERSION, ruby

ENGINE = "run.wasm-sandboxer/engine"


@pytest.fixture(scope="module")
def sandboxer() -> Iterator[Daemon]:
    """A sandboxer that waits for its compilers, and keeps what they make."""
    programs.fetch()
    with Daemon("--aot", "always", "--cache-dir", str(CACHE / "aot")) as running:
        yield running


@pytest.fixture
def pod(sandboxer: Daemon) -> Iterator[Pod]:
    with ready_pod(sandboxer) as made:
        yield made


def patient(container: Container) -> Container:
    """Its client waits for a compile of minutes."""
    container.connection.sock.settimeout(900)
    return container


def engine(container: Container) -> str:
    return container.pod.api.status(container.pod.id, verbose=True).info[f"engine of {container.id}"]


@pytest.mark.parametrize("chosen", ["wasmedge", "wasmtime"])
def test_boolector_finds_that_there_are_no_such_numbers(pod: Pod, chosen: str) -> None:
    solver = programs.boolector()
    assert solver
    builder = pod.with_wasm(solver).args("/problem.smt2").file("problem.smt2", programs.PROBLEM)
    builder.config["annotations"][ENGINE] = chosen
    container = patient(builder.build()).start()
    assert container.wait() == programs.UNSATISFIABLE
    assert container.stdout() == "unsat\n"
    assert engine(container).startswith(f"{chosen}, ")
    assert "interpreted" not in engine(container)


def test_yosys_runs_by_wasmtime_since_wasmedge_refuses_it(pod: Pod) -> None:
    suite = programs.yosys()
    assert suite
    builder = pod.with_wasm(suite).file("in.v", "module flip(input a, output b); assign b = ~a; endmodule\n")
    builder.args("-q", "-p", "read_verilog /in.v; proc; opt; write_verilog -noattr /out.v")
    container = patient(builder.build()).start()
    assert container.wait() == 0, container.stderr()
    assert "assign b = ~ a;" in (container.rootfs / "out.v").read_text()
    assert engine(container) == "wasmtime, compiled"


def test_ruby_is_compiled_with_the_defaults_and_by_auto_where_wasmedge_lacks_memory(tmp_path: Path) -> None:
    """With 512M its 16 MB may take 1 GiB: that is too little for WasmEdge's compiler, and enough for Wasmtime's."""
    entry = f"/app.wasm#{SAYS_VERSION}"
    with Daemon("--aot", "always", "--engine", "wasmtime", "--cache-dir", str(tmp_path)) as daemon:
        pod = Pod(daemon)
        container = patient(pod.with_wasm(ruby()).entry(entry).build()).start()
        assert container.wait() == 0, container.stderr()
        assert container.stdout().startswith("ruby 3.4.")
        (memory,) = re.findall(r"compiled \S+ at O2: .* bytes, (\d+) MiB of memory", daemon.log_text())
        assert 256 < int(memory) < 2048
        pod.shutdown()
        pod.close()
    with Daemon("--aot", "always", "--aot-memory", "512M", "--cache-dir", str(tmp_path)) as daemon:
        pod = Pod(daemon)
        container = patient(pod.with_wasm(ruby()).entry(entry).build()).start()
        assert container.wait() == 0, container.stderr()
        assert container.stdout().startswith("ruby 3.4.")
        assert engine(container) == "wasmtime, compiled"
        assert re.search(r"not compiled: \S+ at O0, .*: out of memory", daemon.log_text())
        pod.shutdown()
        pod.close()
