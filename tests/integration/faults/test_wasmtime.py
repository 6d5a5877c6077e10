"""Wasmtime gone wrong: its zygotes, its products, its library."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from sandbox_api.errors import FailedPrecondition
from supervisor.aot.cache import Cache
from supervisor.aot.terms import Level
from supervisor.host import interpreters

from ...harness import modules
from ...harness.compiled import Node
from ...harness.components import component
from ...harness.container import Builder, Pod
from ...harness.daemon import Daemon
from ...harness.guests import guest


@pytest.fixture
def wasmtime(start: Callable[..., Node]) -> Node:
    return start("--engine", "wasmtime")


Making = Callable[[bytes], Daemon]


@pytest.fixture
def having(tmp_path: Path) -> Iterator[Making]:
    """A sandboxer on a machine whose Wasmtime has this in place of its library, or nothing."""
    with ExitStack() as stack:

        def make(library: bytes) -> Daemon:
            package = tmp_path / "wasmtime"
            (folder := package / f"linux-{platform.machine()}").mkdir(parents=True)
            (package / "__init__.py").touch()
            if library:
                (folder / "_libwasmtime.so").write_bytes(library)
            daemon = Daemon("--aot", "auto", "--engine", "auto")
            daemon.environment["PYTHONPATH"] = str(tmp_path)
            return stack.enter_context(daemon)

        yield make


def maps(process: psutil.Process) -> str:
    return Path(f"/proc/{process.pid}/maps").read_text()


def zygotes(daemon: Daemon, name: str) -> list[psutil.Process]:
    """Those that have Wasmtime."""
    return [each for kind, _, each in daemon.named() if kind == name and "libwasmtime" in maps(each)]


def test_each_engines_workers_have_no_other_engine(auto: Node) -> None:
    ours = auto.pod.with_wasm("sleep").build().start()
    assert "libwasmtime" not in maps(psutil.Process(ours.pid))
    assert len(zygotes(auto.daemon, "zygote-root")) == 1
    by_wasmtime = auto.pod.with_wasm(modules.final_exceptions(7)).build().start()
    assert by_wasmtime.wait() == 7
    assert len(zygotes(auto.daemon, "zygote-worker")) == 1
    assert len([name for name, _, _ in auto.daemon.named() if name == "zygote-worker"]) == 2


@pytest.mark.parametrize("names", [["zygote-worker"], ["zygote-root"], ["zygote-root", "zygote-worker"]])
def test_zygotes_that_died_are_replaced(wasmtime: Node, names: list[str]) -> None:
    running = wasmtime.pod.with_wasm("sleep").build().start()
    assert wasmtime.pod.with_wasm("exit").args("3").build().start().wait() == 3
    for name in names:
        (zygote,) = zygotes(wasmtime.daemon, name)
        zygote.kill()
        zygote.wait(10)
    assert [wasmtime.pod.with_wasm("exit").args(str(n)).build().start().wait() for n in (4, 5)] == [4, 5]
    assert running.status() == "RUNNING"


def test_a_product_that_does_not_load_is_made_again(wasmtime: Node) -> None:
    container = wasmtime.pod.with_wasm("exit").args("5").build()
    digest = hashlib.sha256(guest("exit").read_bytes()).hexdigest()
    wasmtime.wait_compiled(guest("exit").read_bytes())
    found = interpreters.wasmtime()
    assert found
    cache = Cache(wasmtime.cache, 1 << 30, found[0], "wasmtime")
    foreign = os.open("/bin/true", os.O_RDONLY)
    cache.install(digest, Level.O2, foreign)
    os.close(foreign)
    cache.close()
    assert container.start().wait() == 5
    assert "does not load, and is compiled again" in wasmtime.daemon.log_text()
    assert wasmtime.pod.with_wasm("exit").args("6").build().start().wait() == 6
    assert wasmtime.compiled("O2") == 2


def test_a_library_that_is_replaced_meanwhile_is_named_once_its_products_do_not_load(having: Making) -> None:
    """What runs has the old one loaded; a compile loads the new one, whose settings have another name."""
    found = interpreters.wasmtime()
    assert found
    library = Path(found[1]).read_bytes()
    daemon = having(library)
    path = Path(daemon.environment["PYTHONPATH"], f"wasmtime/linux-{platform.machine()}/_libwasmtime.so")
    path.with_suffix(".new").write_bytes(library.replace(b"tls_model", b"tls_modes"))
    times = path.stat()
    os.utime(path.with_suffix(".new"), ns=(times.st_atime_ns, times.st_mtime_ns))  # else the daemon notices it before
    path.with_suffix(".new").rename(path)
    pod = Pod(daemon)
    container = pod.with_wasm(component("hello")).build()
    with pytest.raises(
        FailedPrecondition, match=r"does not load: .*: unknown shared.*: restart the sandboxer if Wasmtime is another"
    ):
        container.start()
    assert "does not load, and is compiled again" in daemon.log_text()
    with pytest.raises(FailedPrecondition, match="it could not be compiled: unable: does not load"):
        container.start()
    pod.close()


def test_without_the_package_all_else_works(having: Making) -> None:
    pod = Pod(having(b""))
    assert pod.with_wasm("exit").args("3").build().start().wait() == 3
    with pytest.raises(FailedPrecondition, match="wasm-sandboxer doctor says how"):
        pod.with_wasm(component("hello")).build().start()
    pod.close()


def test_a_library_that_does_not_load_is_no_engine(having: Making) -> None:
    daemon = having(b"no library")
    pod = Pod(daemon)
    assert pod.with_wasm("exit").args("3").build().start().wait() == 3
    with pytest.raises(FailedPrecondition, match="Wasmtime does not load"):
        pod.with_wasm(component("hello")).build().start()
    assert "_libwasmtime.so does not load" in daemon.log_text()
    assert len([name for name, _, _ in daemon.named() if name == "zygote-root"]) == 1
    pod.close()


def test_a_container_that_forbids_itself_machine_code_takes_it_from_nobody(wasmtime: Node) -> None:
    def with_profile() -> Builder:
        return wasmtime.pod.with_wasm("sleep").linux(seccomp=modules.no_code("mprotect"))

    assert wasmtime.pod.with_wasm("sleep").build().start().status() == "RUNNING"
    for _ in range(3):
        with pytest.raises(FailedPrecondition, match="under its own seccomp profile or resource limits"):
            with_profile().build().start()
        assert wasmtime.pod.with_wasm("sleep").build().start().status() == "RUNNING"
    assert wasmtime.compiled("O2") == 2  # made again once
