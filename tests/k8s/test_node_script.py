"""The installer's program, node.sh, run from its image on a node's root, for each form of containerd's main file."""

from __future__ import annotations

import os
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.harness.guests import guest

from .node_root import CHROOT, NodeRoot
from .programs import node_image

MAIN = "etc/containerd/config.toml"
OURS = ("opt/wasm*", "etc/containerd/**/*wasm*", "etc/systemd/**/*wasm*", "usr/local/bin/*wasm*")
FRESH = ["daemon-reload", "enable wasm-sandboxer.service", "restart wasm-sandboxer.service"]


class Installer:
    """The image's root with a node's root in it, as the DaemonSet's pods have it."""

    def __init__(self, root: Path, node: NodeRoot) -> None:
        self._root = root
        self.node = node

    def __call__(self, verb: str) -> subprocess.CompletedProcess[str]:
        """Run node.sh; ``node.calls`` are systemctl's in this run."""
        self.node.calls.clear()
        command = [CHROOT, str(self._root), "/bin/sh", "/bin/node.sh", verb]
        return subprocess.run(command, check=False, capture_output=True, text=True, env={"PATH": "/bin"}, timeout=120)


@pytest.fixture
def installer() -> Iterator[Installer]:
    if os.environ.get("WASM_SANDBOXER_K8S") != "1":
        pytest.exit("run these tests by make k8s: they mount a node's root", returncode=2)
    with ExitStack() as parts:
        node = parts.enter_context(NodeRoot())
        root = Path(tempfile.mkdtemp(prefix="k8s-image-", dir="/tmp"))
        parts.callback(root.rmdir)  # never a tree: a node's root is mounted in it
        parts.callback(lambda: subprocess.run(["umount", "-R", "-l", root], check=False))
        subprocess.run(["mount", "-t", "tmpfs", "image", root], check=True)
        with tarfile.open(node_image()) as archive:
            layer = archive.extractfile("layer.tar")
            assert layer is not None
            with tarfile.open(fileobj=layer) as files:
                files.extractall(root, filter="fully_trusted")
        for name in ("host", "dev", "proc"):
            (root / name).mkdir()
        (root / "dev/null").touch()
        for source, target in ((node.path, "host"), ("/dev/null", "dev/null"), ("/proc", "proc")):
            subprocess.run(["mount", "--rbind", source, root / target], check=True)
        yield Installer(root, node)


def test_a_node_is_installed_upgraded_repaired_and_cleared(installer: Installer) -> None:
    node = installer.node
    assert node.files(*OURS) == set()
    done = installer("install")
    assert done.returncode == 0, done.stderr + node.log.read_text()
    assert node.calls == [*FRESH, "restart containerd.service"]
    (node.path / "sleep.wasm").write_bytes(guest("sleep").read_bytes())
    node.run("wasm-sandboxer", "run", "-d", "--name", "lives", "/sleep.wasm")

    version = node.path / "opt/wasm-sandboxer/version"
    new = version.read_text()
    version.write_text("an older one")
    assert installer("install").returncode == 0
    assert version.read_text() == new
    assert node.calls == FRESH
    assert "lives      running" in node.run("wasm-sandboxer", "ps")

    assert installer("install").returncode == 0
    assert "restart" not in " ".join(node.calls)

    (node.path / "etc/containerd/conf.d/wasm.toml").unlink()
    assert installer("install").returncode == 0
    assert [call for call in node.calls if "restart" in call] == ["restart containerd.service"]

    done = installer("remove")
    assert done.returncode == 0, done.stderr
    assert node.files(*OURS, MAIN) == set()
    assert "restart containerd.service" in node.calls


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("version = 3\n[debug]\n", 'version = 3\nimports = ["/etc/containerd/conf.d/wasm.toml"]\n[debug]\n'),
        ("version = 3\nimports = []\n", 'version = 3\nimports = ["/etc/containerd/conf.d/wasm.toml", ]\n'),
        ("version = 4\nimports = ['/a']\n", "version = 4\nimports = [\"/etc/containerd/conf.d/wasm.toml\", '/a']\n"),
        ("version = 3\nimports = ['/etc/containerd/conf.d/*.toml']\n",) * 2,
    ],
    ids=["no imports", "empty imports", "other imports", "imported already"],
)
def test_containerds_main_file_imports_the_fragment_while_it_is_installed(
    installer: Installer, before: str, after: str
) -> None:
    main = installer.node.path / MAIN
    main.parent.mkdir(parents=True, exist_ok=True)
    main.write_text(before)
    assert installer("install").returncode == 0
    assert main.read_text() == after
    assert installer("remove").returncode == 0
    assert main.read_text() == before


def test_a_node_whose_main_file_is_of_version_2_stays_as_it_was(installer: Installer) -> None:
    main = installer.node.path / MAIN
    main.parent.mkdir(parents=True, exist_ok=True)
    main.write_text("version = 2\n")
    done = installer("install")
    assert done.returncode == 1
    assert "of version 2" in done.stderr
    assert "containerd config migrate" in done.stderr
    assert installer.node.files(*OURS) == set()
    assert installer.node.calls == []
    assert main.read_text() == "version = 2\n"
