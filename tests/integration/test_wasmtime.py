"""Wasmtime beside WasmEdge: components, modules that only it runs, and guests that behave as under WasmEdge."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox_api.errors import FailedPrecondition, InvalidArgument

from ..harness import modules
from ..harness.compiled import Node
from ..harness.components import component
from ..harness.container import Builder, Container

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


def test_threads_are_its_only_processes(wasmtime: Node) -> None:
    container = wasmtime.pod.with_wasm("sleep").build().start()
    status = Path(f"/proc/{container.pid}/status").read_text()
    found = re.search(r"Seccomp:\t2", status)
    assert found
    assert not Path(f"/proc/{container.pid}/task/{container.pid}/children").read_text()
