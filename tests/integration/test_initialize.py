"""An export called once before the image is taken: instances begin behind it, with their own arguments and files."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox_api.errors import InvalidArgument

from ..harness.compiled import Node
from ..harness.container import Builder, Container
from ..harness.guests import guest

ANNOTATION = "run.wasm-sandboxer/initialize"
STARTS = 100
"""Within so many there is an image."""


def booting(node: Node, export: str = "boot", root: Path | None = None) -> Builder:
    builder = node.pod.with_wasm("initialize").args("one").env(NAME="a").file("/data/given", "given")
    builder.config["annotations"][ANNOTATION] = export
    if root is not None:
        builder.config["root"] = {"path": str(root), "readonly": True}
    return builder


def ran(builder: Builder) -> tuple[Container, str]:
    container = builder.build().start()
    assert container.wait() == 0
    return container, container.stdout()


def random_of(said: str) -> str:
    found = re.search(r"random (\w{16})", said)
    assert found, said
    return found[1]


def from_image(node: Node, root: Path | None = None) -> str:
    """The words of two instances of one image, which have the same random number."""
    booting(node, root=root).build()
    node.wait_compiled(guest("initialize").read_bytes())
    _, before = ran(booting(node, root=root))
    for _ in range(STARTS):
        container, said = ran(booting(node, root=root))
        if random_of(said) == random_of(before):
            assert said == before
            container.delete()
            return said
        assert "boots 1," in said
        before = said
    raise AssertionError("no image")


def test_an_image_has_been_initialised_once_and_shows_its_random_state(auto: Node) -> None:
    said = from_image(auto)
    assert "boots 1," in said
    assert "saw nothing, heard nothing, told one a" in said  # the root may be written to: so it was not shown
    assert "reads given" in said


def test_what_the_export_could_see_is_part_of_the_images_key(auto: Node) -> None:
    first = random_of(from_image(auto))
    builder = booting(auto)
    builder.config["process"]["args"][1] = "two"
    _, said = ran(builder)
    assert "told two a" in said
    assert random_of(said) != first
    _, said = ran(booting(auto).env(NAME="b", MORE="c"))
    assert random_of(said) != first
    _, said = ran(booting(auto))
    assert random_of(said) == first


def test_folders_that_can_only_be_read_are_shown_to_it(auto: Node) -> None:
    root = booting(auto).rootfs
    said = from_image(auto, root)
    assert "saw given, heard nothing, told one a" in said
    assert "reads given" in said
    other = booting(auto)
    (other.rootfs / "data/given").write_text("other")
    other.config["root"]["readonly"] = True
    _, different = ran(other)
    assert "saw other" in different
    assert random_of(different) != random_of(said)


@pytest.mark.parametrize(("export", "status"), [("trap", 134), ("leave", 7)])
def test_an_export_that_ends_ends_each_instance(auto: Node, export: str, status: int) -> None:
    booting(auto).build()
    auto.wait_compiled(guest("initialize").read_bytes())
    assert [booting(auto, export).build().start().wait() for _ in range(6)] == [status] * 6


def test_no_image_has_files_left_open(auto: Node) -> None:
    root = booting(auto).rootfs
    booting(auto).build()
    auto.wait_compiled(guest("initialize").read_bytes())
    for _ in range(6):
        _, said = ran(booting(auto, "keep", root))
        assert "reads given" in said
    assert "has no image: the template died" in auto.daemon.log_text()


def test_what_cannot_be_called_is_told(auto: Node) -> None:
    container = booting(auto, "nothing").build()
    with pytest.raises(InvalidArgument, match="exports no function 'nothing'"):
        container.start()
    container = booting(auto, "x" * 300).build()
    with pytest.raises(InvalidArgument, match="a name of 300 bytes is too long"):
        container.start()


def test_an_interpreted_module_is_initialised_at_each_start(start: Callable[..., Node]) -> None:
    never = start("--aot", "never")
    found = {random_of(ran(booting(never))[1]) for _ in range(3)}
    assert len(found) == 3
