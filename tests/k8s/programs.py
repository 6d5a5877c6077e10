"""The programs of a cluster: built by the Go toolchain from ``tools/``; etcd and the CNI plug-ins from Debian."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from tests.e2e.containerd import tools

ROOT = Path(__file__).resolve().parent.parent.parent
PROGRAMS = ROOT / ".cache" / "k8s"
"""A folder laid out like /."""
TOOLS = Path(__file__).resolve().parent / "tools"


class ProgramsMissing(Exception):
    """A program of the cluster cannot be had here; the text says what to install."""


INSTALLER = ROOT / "packaging" / "kubernetes" / "node-installer.yaml"
_TESTS = {"cri": ("sigs.k8s.io/cri-tools/cmd/critest",)}
"""Programs that are tests of their packages, by their module."""
_INSTALLED = ("packaging", "sandbox_api", "supervisor", "workers", "pyproject.toml", "constraints.txt")


@cache
def programs() -> Path:
    """Build or fetch what is missing: a quarter of an hour the first time. Raises ``ProgramsMissing``."""
    for module in sorted(TOOLS.iterdir()):
        _build(module)
    if not (PROGRAMS / "usr/bin/etcd").exists():
        subprocess.run([Path(__file__).with_name("fetch-debian.sh"), PROGRAMS], check=True)
    return PROGRAMS


def _build(module: Path) -> None:
    """Build the ``tool`` lines of a Go module, unless they were built from these very versions."""
    stamp = PROGRAMS / f"{module.name}.sum"
    wanted = (module / "go.mod").read_text() + (module / "go.sum").read_text()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    if not shutil.which("go"):
        raise ProgramsMissing("Go is not installed: install Go 1.26 or later, which builds Kubernetes and containerd")
    (PROGRAMS / "usr/bin").mkdir(parents=True, exist_ok=True)
    print(f"k8s: building {module.name}, which takes minutes the first time", file=sys.stderr, flush=True)
    command = ["go", "build", "-trimpath", "-ldflags", "-s -w", "-o", f"{PROGRAMS / 'usr/bin'}/", "tool"]
    done = subprocess.run(command, cwd=module, check=False, env={**os.environ, "GOFLAGS": ""})
    if done.returncode:
        raise ProgramsMissing(f"{module.name} was not built (see above); its versions are in {module}/go.mod")
    for package in _TESTS.get(module.name, ()):
        name = package.rpartition("/")[2]
        command = [
            "go",
            "test",
            "-c",
            "-trimpath",
            "-ldflags",
            "-s -w",
            "-o",
            f"{PROGRAMS / 'usr/bin' / name}",
            package,
        ]
        if subprocess.run(command, cwd=module, check=False, env={**os.environ, "GOFLAGS": ""}).returncode:
            raise ProgramsMissing(f"{package} was not built (see above)")
    stamp.write_text(wanted)


def node_image(build: bool = False) -> Path:
    """The installer's image for this machine's Python, and of what the checkout holds now.

    With ``build`` it is made where it is missing, which needs a network. Raises ``ProgramsMissing``.
    """
    listing = subprocess.run(["git", "-C", ROOT, "ls-files", "-z", "--", *_INSTALLED], check=True, capture_output=True)
    names = filter(None, listing.stdout.decode().split("\0"))
    digest = hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in names)).hexdigest()[:16]
    archive = PROGRAMS / f"node-installer-{digest}.tar"
    if archive.exists():
        return archive
    if not build:
        raise ProgramsMissing("the installer's image is not of these files: run python -m tests.k8s.programs")
    for old in PROGRAMS.glob("node-installer*"):
        old.unlink()
    command = ["/usr/bin/python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    version = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    part = archive.with_suffix(".part")
    subprocess.run([INSTALLER.with_name("build-image.sh"), part, version], check=True)
    part.rename(archive)
    return archive


if __name__ == "__main__":
    try:
        print(programs())
        node_image(build=True)
        tools(peers=True)  # crun and WasmEdge, to compare with
    except ProgramsMissing as error:
        sys.exit(f"k8s: {error}")
