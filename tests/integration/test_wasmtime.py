"""Wasmtime beside WasmEdge: components, modules that only it runs, and guests that behave as under WasmEdge."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from sandbox_api.errors import FailedPrecondition, InvalidArgument

from ..harness import modules
from ..harness.cli import Cli
from ..harness.compiled import Node, until
from ..harness.components import component
from ..harness.container import Builder, Container, Pod
from ..harness.guests import guest
from ..harness.netns import NetworkNamespace

ENGINE = "run.wasm-sandboxer/engine"


@pytest.fixture
def wasmtime(start: Callable[..., Node]) -> Node:
    return start("--engine", "wasmtime")


def by_wasmtime(container: Container) -> bool:
    """Whether a running container has Wasmtime's product and no product of WasmEdge's."""
    return "/wasmtime-" in Path(f"/proc/{container.pid}/maps").read_text()


def annotated(builder: Builder, engine: str) -> Builder:
    builder.config["annotations"] = {ENGINE: engine}
    return builder


def test_a_component_runs_by_default(auto: Node) -> None:
    container = auto.pod.with_wasm(component("hello")).build().start()
    assert container.wait() == 0
    assert container.stdout() == "hello from a component\n"


@pytest.mark.parametrize(
    ("body", "status"),
    [("i32.const 0", 0), ("i32.const 1", 1), ("i32.const 1 call $exit unreachable", 1), ("unreachable", 134)],
)
def test_a_component_ends_as_its_run_does(auto: Node, body: str, status: int) -> None:
    container = auto.pod.with_wasm(component("ends", body)).build().start()
    assert container.wait() == status
    assert ("wasm trap: wasm `unreachable`" in container.stderr()) == (status == 134)


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_a_component_makes_sockets_where_it_has_a_network(auto: Node, kind: str) -> None:
    made = component("sockets", f"(call ${kind} (i32.const 0) (i32.const 64)) (i32.load8_u (i32.const 64))")
    with NetworkNamespace() as netns:
        pod = Pod(auto.daemon, netns_path=netns.path)
        assert pod.with_wasm(made).build().start().wait() == 0
        pod.shutdown()
        pod.close()
    lonely = auto.pod.with_wasm(made).linux(namespaces=[{"type": "network"}])
    assert lonely.build().start().wait() == 1


def test_statuses_arguments_environment_and_traps_are_as_under_wasmedge(wasmtime: Node) -> None:
    pod = wasmtime.pod
    assert pod.with_wasm("exit").args("7").build().start().wait() == 7
    assert pod.with_wasm("exit").args("300").build().start().wait() == 300 & 255
    assert pod.with_wasm("exit").args("200").build().start().wait() == 200
    told = pod.with_wasm("args").args("one", "two words").env(NAME="a value").build().start()
    assert told.wait() == 0
    assert told.stdout().splitlines()[-3:] == ["arg one", "arg two words", "env NAME=a value"]
    trapped = pod.with_wasm("trap").build().start()
    assert trapped.wait() == 134
    assert "wasm trap: wasm `unreachable` instruction executed" in trapped.stderr()
    assert "wasm backtrace" in trapped.stderr()


def test_files_are_reached_as_the_preopens_say(wasmtime: Node) -> None:
    container = wasmtime.pod.with_wasm("files").file("in", "text").args("r /in", "w /out new", "r /out").build().start()
    assert container.wait() == 0
    assert container.stdout() == "/in: text\n/out: written\n/out: new\n"
    readonly = wasmtime.pod.with_wasm("files").readonly().args("w /out new").build().start()
    assert readonly.wait() == 0
    assert "written" not in readonly.stdout()


def test_a_signal_ends_it_and_a_limit_bounds_its_memory(wasmtime: Node) -> None:
    container = wasmtime.pod.with_wasm("sleep").build().start()
    assert by_wasmtime(container)
    container.kill(signal.SIGTERM)
    assert container.wait() == 128 + signal.SIGTERM
    limit = {"memory": {"limit": 64 << 20}}
    assert wasmtime.pod.with_wasm("memory").args("100").linux(resources=limit).build().start().wait() == 1


def test_exec_runs_in_the_same_engine(wasmtime: Node) -> None:
    container = wasmtime.pod.with_wasm("sleep").build().start()
    container.add_exec("more", "/app.wasm", "0")
    container.start("more")
    assert container.wait("more") == 0


def test_an_annotation_chooses_for_one_container(auto: Node) -> None:
    assert by_wasmtime(annotated(auto.pod.with_wasm("sleep"), "wasmtime").build().start())
    assert not by_wasmtime(annotated(auto.pod.with_wasm("sleep"), "wasmedge").build().start())
    with pytest.raises(InvalidArgument, match="there is no engine 'v8'"):
        annotated(auto.pod.with_wasm("sleep"), "v8").build().start()
    with pytest.raises(InvalidArgument, match="it is a component, and WasmEdge runs none"):
        annotated(auto.pod.with_wasm(component("hello")), "wasmedge").build().start()


def test_wasmtime_runs_modules_that_wasmedge_refuses(auto: Node) -> None:
    module = modules.final_exceptions(7)
    assert [auto.pod.with_wasm(module).build().start().wait() for _ in range(3)] == [7, 7, 7]


def test_errors_of_both_engines_are_reported(auto: Node) -> None:
    nonsense = modules.MAGIC + b"\x0b\xff\xff"
    with pytest.raises(InvalidArgument, match=r"WasmEdge: .*; Wasmtime: "):
        auto.pod.with_wasm(nonsense).build().start()


def test_without_compilation_it_cannot_run(start: Callable[..., Node]) -> None:
    node = start("--aot", "never", "--engine", "wasmtime")
    with pytest.raises(FailedPrecondition, match="Wasmtime"):
        node.pod.with_wasm("sleep").build().start()


def test_a_component_survives_the_supervisor(wasmtime: Node) -> None:
    container = wasmtime.pod.with_wasm("sleep").build().start()
    wasmtime.daemon.kill()
    wasmtime.daemon.start()
    container.reconnect()
    assert container.status() == "RUNNING"
    container.kill(signal.SIGKILL)
    assert container.wait() == 128 + signal.SIGKILL


def test_how_it_runs_is_shown(auto: Node) -> None:
    cli = Cli(auto.daemon)
    running = [
        annotated(auto.pod.with_wasm("sleep"), engine).args("1000").build().start()
        for engine in ("wasmtime", "wasmedge")
    ]
    rows = {row["id"]: (row["engine"], row["tier"]) for row in cli.rows("ps")}
    assert rows[running[0].id] == ("wasmtime", "compiled")
    assert rows[running[1].id][0] == "wasmedge"
    info = auto.pod.api.status(auto.pod.id, verbose=True).info
    assert info[f"engine of {running[0].id}"] == "wasmtime, compiled"
    assert info[f"engine of {running[1].id}"] == ", ".join(rows[running[1].id])
    assert f" {rows[running[1].id][0]} {rows[running[1].id][1]} " in cli.out("ps")
    assert "  wasmtime  compiled  " in cli.out("top", "--interval", "0.1")


def test_run_chooses_an_engine(auto: Node) -> None:
    cli = Cli(auto.daemon)
    cli.out("run", "-d", "--name", "chosen", "--engine", "wasmtime", guest("sleep"), "1000")
    (row,) = cli.rows("ps")
    assert (row["id"], row["engine"]) == ("chosen", "wasmtime")
    cli.out("rm", "-f", "chosen")


def test_what_no_engine_compiles_is_interpreted_and_told_once(start: Callable[..., Node], tmp_path: Path) -> None:
    node = start("--aot", "always", "--aot-memory", "4M")
    module = modules.laborious(4000)
    containers = [node.pod.with_wasm(module).build().start() for _ in range(3)]
    assert [each.wait() for each in containers] == [0] * 3
    assert (
        len(
            re.findall(
                "runs interpreted, which is slow: WasmEdge: out of memory.*; Wasmtime: out of memory",
                node.daemon.log_text(),
            )
        )
        == 1
    )
    (row,) = [json.loads(Cli(node.daemon).out("inspect", containers[-1].id))]
    assert (row["engine"], row["tier"]) == ("wasmedge", "interpreted")
    assert "Wasmtime: out of memory: it needs more than 4 MiB" in row["uncompiled"]
    info = node.pod.api.status(node.pod.id, verbose=True).info
    assert info[f"engine of {containers[-1].id}"] == f"wasmedge, interpreted: {row['uncompiled']}"
    path = tmp_path / "laborious.wasm"
    path.write_bytes(module)
    told = Cli().run("warm", path, "--aot-memory", "4M", "--cache-dir", node.cache).stdout
    assert "laborious.wasm: not compiled, and so interpreted; WasmEdge: O0 out of memory" in told


def test_what_wasmtime_compiles_and_cannot_link_is_interpreted(start: Callable[..., Node]) -> None:
    """WasmEdge's compiler needs more than it may have, and its own socket functions are no other engine's."""
    node = start("--aot", "always", "--aot-memory", "64M")
    module = modules.laborious(4000, sockets=True)
    containers = [node.pod.with_wasm(module).build().start() for _ in range(3)]
    assert [each.wait() for each in containers] == [0] * 3
    reason = "WasmEdge: out of memory.*; Wasmtime: refused: cannot be linked: unknown import.*sock_open"
    assert len(re.findall(f"runs interpreted, which is slow: {reason}", node.daemon.log_text())) == 1
    for each in containers:
        (row,) = [json.loads(Cli(node.daemon).out("inspect", each.id))]
        assert (row["engine"], row["tier"]) == ("wasmedge", "interpreted")
        assert re.fullmatch(f"{reason}.*", row["uncompiled"])
    with pytest.raises(InvalidArgument, match="cannot be linked: unknown import"):
        annotated(node.pod.with_wasm(module), "wasmtime").build().start()


def test_imports_that_neither_engine_has_are_errors_of_both(start: Callable[..., Node]) -> None:
    node = start("--aot", "always", "--aot-memory", "64M")
    module = modules.laborious(4000, sockets=True).replace(b"sock_open", b"sock_none")
    for _ in range(2):
        with pytest.raises(InvalidArgument, match=r"WasmEdge: .*; Wasmtime: cannot be linked: unknown import"):
            node.pod.with_wasm(module).build().start()


def test_warm_compiles_for_the_engine_that_will_run_it(auto: Node, tmp_path: Path) -> None:
    files = {"hello": component("hello"), "final": modules.final_exceptions(7), "exits": modules.exits(3)}
    for name, content in files.items():
        (tmp_path / f"{name}.wasm").write_bytes(content)
    warm = partial(Cli().out, "warm", "--cache-dir", auto.cache)
    told = warm(*(tmp_path / f"{name}.wasm" for name in files))
    assert "hello.wasm: compiled for Wasmtime\n" in told
    assert "final.wasm: compiled for Wasmtime; WasmEdge: O0 refused: " in told
    assert "exits.wasm: compiled for WasmEdge (O2)\n" in told
    assert auto.pod.with_wasm(files["final"]).build().start().wait() == 7
    assert auto.compiled("O2") == 0
    assert re.search(r"compiled for Wasmtime$", warm("--engine", "wasmtime", tmp_path / "exits.wasm").strip())


def test_the_log_tells_what_a_compile_needed(wasmtime: Node) -> None:
    assert wasmtime.run(modules.exits(3)) == 3
    found = re.search(r"compiled \S+ at O2: .* bytes, (\d+) MiB of memory", wasmtime.daemon.log_text())
    assert found
    assert int(found[1]) > 4


def test_threads_are_its_only_processes_and_few(wasmtime: Node) -> None:
    """As many on every machine, whatever the guest's environment says."""
    for variables in ({}, {"TOKIO_WORKER_THREADS": "7"}):
        container = wasmtime.pod.with_wasm("sleep").env(**variables).build().start()
        tasks = Path(f"/proc/{container.pid}/task")
        until("asleep", lambda tasks=tasks: len(list(tasks.iterdir())) > 1)  # type: ignore[misc]
        status = Path(f"/proc/{container.pid}/status").read_text()
        assert re.search(r"Seccomp:\t2", status)
        assert re.search(r"Threads:\t2\n", status)
        assert not Path(f"{tasks}/{container.pid}/children").read_text()
    told = wasmtime.pod.with_wasm("args").env(TOKIO_WORKER_THREADS="7").build().start()
    assert told.wait() == 0
    assert told.stdout().splitlines()[-1] == "env TOKIO_WORKER_THREADS=7"
