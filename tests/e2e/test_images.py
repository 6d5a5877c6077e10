"""Images that `wasm-sandboxer pack` made, as containerd sees them."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from supervisor.commands.pack import Folder, Reference, pack_image
from tests.harness.guests import guest

from . import cri_pb2 as pb
from .node import Container, Node


def test_an_archive_imports_under_its_name_with_its_configuration(node: Node, tmp_path: Path) -> None:
    archive = tmp_path / "image.tar"
    digest = pack_image(guest("args"), Reference.parse("e2e/named:1"), archive, ["one", "two words"], ["MODE=test"])
    output = node.load(archive, "e2e/named:1")

    assert "docker.io/e2e/named:1" in output
    image = node.cri.image("e2e/named:1")
    assert image is not None
    assert list(image.repo_tags) == ["docker.io/e2e/named:1"]
    assert digest in node.containerd.ctr("images", "list")
    config = json.loads(node.cri.image_info("e2e/named:1")["info"])["imageSpec"]
    assert config["config"]["Entrypoint"] == ["/args.wasm", "one", "two words"]
    assert config["config"]["Env"] == ["MODE=test"]

    node.cri.remove_image("e2e/named:1")
    assert node.cri.image("e2e/named:1") is None


@pytest.mark.parametrize("kubernetes_args", [(), ("three",)])
def test_a_container_gets_the_images_arguments_and_variables(
    node: Node, tmp_path: Path, kubernetes_args: tuple[str, ...]
) -> None:
    archive = tmp_path / "image.tar"
    pack_image(guest("args"), Reference.parse("e2e/args:1"), archive, ["one", "two words"], ["MODE=test"])
    node.load(archive, "e2e/args:1")

    with node.pod() as pod:
        log = Path(pod.config.log_directory, "c.log")
        config = pb.ContainerConfig(
            metadata=pb.ContainerMetadata(name="c"),
            image=pb.ImageSpec(image="e2e/args:1"),
            args=kubernetes_args,
            envs=[pb.KeyValue(key="ADDED", value=b"later")],
            log_path="c.log",
        )
        container = Container(pod, node.cri.create(pod.id, config, pod.config), log)
        pod.made.append(container.id)
        container.start()
        assert container.wait().exit_code == 0
        lines = container.lines("stdout")
    assert [line for line in lines if line.startswith("arg ")] == [
        "arg /args.wasm",
        "arg one",
        "arg two words",
        *(f"arg {arg}" for arg in kubernetes_args),
    ]
    assert "env MODE=test" in lines
    assert "env ADDED=later" in lines


def test_files_packed_with_dir_are_in_the_root_file_system(node: Node, tmp_path: Path) -> None:
    archive, site = tmp_path / "image.tar", tmp_path / "site"
    (site / "deep").mkdir(parents=True)
    (site / "deep" / "page").write_text("a page\n")
    pack_image(guest("hello"), Reference.parse("e2e/site:1"), archive, folders=[Folder.parse(f"{site}:/srv")])
    node.load(archive, "e2e/site:1")
    target = tmp_path / "mounted"
    target.mkdir()

    node.containerd.ctr("images", "mount", "docker.io/e2e/site:1", target)
    try:
        assert (target / "srv/deep/page").read_text() == "a page\n"
        assert (target / "hello.wasm").read_bytes() == guest("hello").read_bytes()
        assert (target / "srv").stat().st_mode & 0o7777 == 0o755
    finally:
        node.containerd.ctr("images", "unmount", "--rm", target)


def test_the_half_that_docker_and_isulad_read_is_an_image_of_its_own(node: Node, tmp_path: Path) -> None:
    archive, half = tmp_path / "image.tar", tmp_path / "half.tar"
    pack_image(guest("hello"), Reference.parse("e2e/half:1"), archive)
    with tarfile.open(archive) as whole, tarfile.open(half, "w") as part:
        for member in whole:
            if member.name not in ("oci-layout", "index.json"):
                part.addfile(member, whole.extractfile(member))

    assert "docker.io/e2e/half:1" in node.load(half, "e2e/half:1")
    config = json.loads(node.cri.image_info("e2e/half:1")["info"])["imageSpec"]
    assert config["config"]["Entrypoint"] == ["/hello.wasm"]


def test_packing_again_changes_nothing(node: Node, tmp_path: Path) -> None:
    digests = []
    for _ in range(2):
        pack_image(guest("hello"), Reference.parse("e2e/again:1"), tmp_path / "image.tar")
        node.load(tmp_path / "image.tar", "e2e/again:1")
        image = node.cri.image("e2e/again:1")
        assert image is not None
        digests.append(image.id)
    assert digests[0] == digests[1]
