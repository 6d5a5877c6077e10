"""A release of containerd, built by the Go toolchain: ``python -m tests.e2e.releases 2.0.14`` prints the folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from .containerd import TOOLS, tools

MODULE = "github.com/containerd/containerd/v2"


def release(version: str) -> Path:
    """A folder laid out like / with that containerd, and Debian's runc and CNI plug-ins. Minutes, the first time.

    Raises ``CalledProcessError``.
    """
    folder = TOOLS.with_name(f"containerd-{version}")
    if (folder / "usr/bin/ctr").exists():
        return folder
    (folder / "usr/bin").mkdir(parents=True, exist_ok=True)
    for name in ("sbin", "lib"):
        (folder / "usr" / name).unlink(missing_ok=True)
        (folder / "usr" / name).symlink_to(tools() / "usr" / name)
    environment = {**os.environ, "GOFLAGS": "-mod=mod"}
    found = subprocess.run(
        ["go", "mod", "download", "-json", f"{MODULE}@v{version}"], check=True, capture_output=True, env=environment
    )
    with tempfile.TemporaryDirectory() as copy:  # the cache's own cannot be written to; older ones cannot be installed
        source = Path(copy) / "containerd"
        shutil.copytree(json.loads(found.stdout)["Dir"], source)
        subprocess.run(["chmod", "-R", "u+w", source], check=True)
        built = Path(copy) / "bin"
        command = ["go", "build", "-trimpath", "-ldflags", "-s -w", "-o", f"{built}/", "./cmd/containerd", "./cmd/ctr"]
        subprocess.run(command, cwd=source, check=True, env=environment)
        for name in ("containerd", "ctr"):
            shutil.move(built / name, folder / "usr/bin" / name)
    return folder


if __name__ == "__main__":
    print(release(sys.argv[1]))
