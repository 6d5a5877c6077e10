"""Images of loaded modules: the third start of a compiled module maps what the second would have loaded."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from ..harness import modules
from ..harness.compiled import Node, until
from ..harness.container import Container
from ..harness.guests import guest


def imaged(container: Container) -> bool:
    """Whether a running container's module was mapped from an image."""
    return "/memfd:image" in Path(f"/proc/{container.pid}/maps").read_text()


def started_from_image(node: Node, name: str, **limits: int) -> Container:
    """A container of a guest's, the first to come from an image."""
    found: list[Container] = []

    def start() -> bool:
        builder = node.pod.with_wasm(guest(name).read_bytes())
        if limits:
            builder = builder.linux(resources={"memory": limits})
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
    assert not imaged(large)


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


@pytest.mark.parametrize("which", ["zygote-worker", "zygote-root"])
def test_images_end_with_the_zygotes_they_were_taken_from(auto: Node, which: str) -> None:
    started_from_image(auto, "sleep")
    next(each for name, _, each in auto.daemon.named() if name == which).kill()
    containers = [auto.pod.with_wasm("sleep").build().start() for _ in range(3)]
    assert [each.status() for each in containers] == ["RUNNING"] * 3


def test_nothing_of_a_template_stays(auto: Node) -> None:
    started_from_image(auto, "sleep")

    until("the template is gone", lambda: "wasm-template" not in {name for name, _, _ in auto.daemon.named()})
