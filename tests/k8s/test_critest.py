"""critest, the specs that a CRI engine is held to, on containerd with this sandboxer: every failure has its reason."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from supervisor.commands.pack import Folder, Reference, pack_image
from tests.e2e.node import Node
from tests.harness.guests import guest

from .programs import programs

BUSYBOX, SERVER = "localhost/busybox:critest", "localhost/server:critest"
PULLING = ("Image Manager", "Image Consistency", "Image Identifier", "SupplementalGroupsPolicy", "OOMKilled", "hostnet")
"""Specs about images of a registry, which are containerd's alone, and those whose program only a registry has."""
APPLETS = ("sh", "top", "sleep", "echo", "cat", "hostname", "ls", "touch", "mkdir", "true")


@pytest.fixture
def node(namespaces: None) -> Iterator[Node]:
    with Node(programs=programs()) as node:
        yield node


def images(node: Node, folder: Path) -> Path:
    """Import what the specs run, in place of busybox and nginx; the file that names them to critest."""
    applets = folder / "bin"
    applets.mkdir()
    for name in APPLETS:
        shutil.copy(guest("busybox"), applets / name)
    archive = folder / "image.tar"
    for image, module, args in ((BUSYBOX, "busybox", ("sh",)), (SERVER, "web", ("80",))):
        pack_image(
            guest(module), Reference.parse(image), archive, args=args, folders=[Folder(applets, PurePosixPath("/bin"))]
        )
        node.load(archive, image)
    named = folder / "images.yaml"
    named.write_text(f"defaultTestContainerImage: {BUSYBOX}\nwebServerTestImage: {SERVER}\n")
    return named


def test_specs_fail_for_known_reasons_alone(node: Node, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [
        programs() / "usr/bin/critest",
        f"--runtime-endpoint=unix://{node.containerd.socket}",
        f"--image-endpoint=unix://{node.containerd.socket}",
        "--runtime-handler=wasm",
        f"--test-images-file={images(node, tmp_path)}",
        f"--ginkgo.json-report={report}",
        "--image-service-timeout=5s",
        *(f"--ginkgo.skip={each}" for each in PULLING),
    ]
    with (tmp_path / "log").open("w") as log:
        subprocess.run(command, stdout=log, stderr=log, check=False, timeout=1200)
    (suite,) = json.loads(report.read_text())
    found: dict[str, list[str]] = {}
    for spec in suite["SpecReports"]:
        name = " ".join([*(spec["ContainerHierarchyTexts"] or []), spec["LeafNodeText"]])
        message = spec.get("Failure", {}).get("Message", "")
        found.setdefault(spec["State"], []).append(f"{name} :: {message[:300]}")
    Path("/tmp/i13-critest.json").write_text(json.dumps(found, indent=1))
