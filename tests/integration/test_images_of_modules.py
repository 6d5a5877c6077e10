"""Images of loaded modules: the third start of a compiled module maps what the second would have loaded."""

from __future__ import annotations

import hashlib
import json
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..harness import modules
from ..harness.cli import Cli
from ..harness.compiled import Node, until
from ..harness.container import Container
from ..harness.guests import guest
from ..harness.helpers import forkserver
from .test_metrics import scrape


def imaged(container: Container) -> bool:
    """Whether a running container's module was mapped from an image."""
    return "/memfd:image" in Path(f"/proc/{container.pid}/maps").read_text()


def image_of(container: Container) -> str:
    """The inode of the memory file that a container's module was mapped from."""
    maps = Path(f"/proc/{container.pid}/maps").read_text().splitlines()
    return next(line.split()[4] for line in maps if "/memfd:image" in line)


def started_from_image(node: Node, name: str, *, cgroup: str = "", **limits: int) -> Container:
    """A container of a guest's, the first to come from an image."""
    found: list[Container] = []

    def start() -> bool:
        builder = node.pod.with_wasm(guest(name).read_bytes())
        if limits:
            builder = builder.linux(resources={"memory": limits})
        if cgroup:
            builder = builder.linux(cgroupsPath=cgroup)
        found.append(builder.build().start())
        if imaged(found[-1]):
            return True
        found[-1].kill(signal.SIGKILL)
        found[-1].wait()
        return False

    node.pod.with_wasm(guest(name).read_bytes()).build()
    node.wait_compiled(guest(name).read_bytes())
    until("an instance comes from an image", start)
    return found[-1]


def test_instances_come_from_an_image_after_two_starts(auto: Node) -> None:
    container = started_from_image(auto, "sleep")
    assert container.status() == "RUNNING"
    container.kill(signal.SIGTERM)
    assert container.wait() == 128 + signal.SIGTERM


def test_arguments_environment_and_status_are_the_instances_own(auto: Node) -> None:
    for number in range(8):
        container = auto.pod.with_wasm("args").args(f"n{number}").env(NUMBER=str(number)).build().start()
        assert container.wait() == 0
        assert f"arg n{number}" in container.stdout()
        assert f"env NUMBER={number}" in container.stdout()
        auto.wait_compiled(guest("args").read_bytes())
    assert [auto.pod.with_wasm("exit").args(str(n)).build().start().wait() for n in range(8)] == list(range(8))


def test_a_trap_is_told_as_ever(auto: Node) -> None:
    auto.pod.with_wasm("trap").build()
    auto.wait_compiled(guest("trap").read_bytes())
    for _ in range(6):
        container = auto.pod.with_wasm("trap").build().start()
        assert container.wait() == 134
        assert "wasm trap: unreachable" in container.stderr()


def test_each_bound_of_memory_has_an_image_of_its_own(auto: Node) -> None:
    small = started_from_image(auto, "sleep", limit=64 << 20)
    large = auto.pod.with_wasm("sleep").linux(resources={"memory": {"limit": 128 << 20}}).build().start()
    assert imaged(small)
    assert not imaged(large) or image_of(small) != image_of(large)


def test_off_makes_none(start: Callable[..., Node]) -> None:
    node = start("--images", "off")
    node.pod.with_wasm("sleep").build()
    node.wait_compiled(guest("sleep").read_bytes())
    assert not any(imaged(node.pod.with_wasm("sleep").build().start()) for _ in range(5))


def test_a_module_that_starts_by_itself_is_loaded_each_time(auto: Node) -> None:
    module = modules.start_section(b"", status=7)
    auto.pod.with_wasm(module).build()
    auto.wait_compiled(module)
    assert [auto.pod.with_wasm(module).build().start().wait() for _ in range(5)] == [7] * 5
    assert "no image" not in auto.daemon.log_text()


@pytest.mark.parametrize("which", ["zygote-worker", "zygote-bare", "zygote-root"])
def test_images_end_with_the_zygotes_they_were_taken_from(auto: Node, which: str) -> None:
    started_from_image(auto, "sleep")
    next(each for name, _, each in auto.daemon.named() if name == which).kill()
    containers = [auto.pod.with_wasm("sleep").build().start() for _ in range(3)]
    assert [each.status() for each in containers] == ["RUNNING"] * 3


def test_nothing_of_a_template_stays(auto: Node) -> None:
    started_from_image(auto, "sleep")

    until("the template is gone", lambda: "wasm-template" not in {name for name, _, _ in auto.daemon.named()})


def node_row(node: Node) -> dict[str, Any]:
    """Ask the daemon for its images."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(node.daemon.dir / "info.sock"))
        sock.sendall(b"GET /node HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: sock.recv(1 << 16), b""))
    row: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])["images_of_modules"]
    return row


def test_a_module_that_was_compiled_before_has_its_image_at_create(auto: Node) -> None:
    module = guest("sleep").read_bytes()
    auto.pod.with_wasm(module).build()
    auto.wait_compiled(module)
    container = auto.pod.with_wasm(module).build()
    until("an image is there before any start", lambda: node_row(auto)["modules"])
    container.start()
    assert imaged(container)


def test_images_are_told_of(auto: Node) -> None:
    container = started_from_image(auto, "sleep")
    digest = hashlib.sha256(guest("sleep").read_bytes()).hexdigest()
    row = node_row(auto)
    assert [each["digest"] for each in row["modules"]] == [digest]
    assert 0 < row["memory"] <= row["memory_limit"] == 256 << 20
    assert row["starts"] >= 1
    assert f"module {digest[:12]} starts from an image: " in auto.daemon.log_text()
    assert '"O2+image"' in Cli(auto.daemon).out("inspect", container.id)


def test_metrics_count_images_and_starts_from_them(start: Callable[..., Node], tmp_path: Path) -> None:
    node = start("--metrics", f"unix:{tmp_path}/metrics")
    started_from_image(node, "sleep")
    said = scrape(tmp_path / "metrics")
    row = node_row(node)
    assert said["wasm_sandboxer_module_images", ()] == 1
    assert said["wasm_sandboxer_module_image_bytes", ()] == row["memory"]
    assert said["wasm_sandboxer_module_image_starts_total", ()] == row["starts"] >= 1
    assert said["wasm_sandboxer_module_image_events_total", (("kind", "made"),)] == 1


def test_a_new_supervisor_knows_the_images_and_uses_them(start: Callable[..., Node]) -> None:
    node = start()
    first = started_from_image(node, "sleep")
    before = node_row(node)["modules"]
    node.daemon.stop()
    node.daemon.start()
    assert node_row(node)["modules"] == before
    assert imaged(first)
    again = node.pod.with_wasm("sleep").build().start()
    assert imaged(again)


def test_images_end_with_the_forkserver_whose_addresses_they_have(auto: Node) -> None:
    started_from_image(auto, "sleep")
    forkserver(auto.daemon).kill()
    until("there is another", lambda: "a forkserver is up" in auto.daemon.log_text())
    assert not node_row(auto)["modules"]
    container = started_from_image(auto, "sleep")
    assert container.status() == "RUNNING"


def test_a_module_that_takes_more_than_there_is_has_no_image_and_starts_as_ever(start: Callable[..., Node]) -> None:
    node = start("--image-memory", "8K")
    node.pod.with_wasm("sleep").build()
    node.wait_compiled(guest("sleep").read_bytes())
    started = [node.pod.with_wasm("sleep").build().start() for _ in range(3)]
    until("it is told why", lambda: node_row(node)["unfit"])
    assert "more than --image-memory has room for" in node_row(node)["unfit"][0]["reason"]
    assert not any(imaged(each) for each in started)
