"""The same CRI operations on the same containerd, with our runtime and with crun and WasmEdge.

``python -m tests.e2e.compare [ROUNDS]`` prints medians in milliseconds, and ratios. Needs root.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tarfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from supervisor.commands.pack import ARCHITECTURES
from tests.harness.guests import CACHE

from . import cri_pb2 as pb
from .containerd import tools
from .node import Node

PAUSE = "localhost/pause:e2e"
UNIFIED = Path("/sys/fs/cgroup/unified")

CRUN_CONFIG = """
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{pause}"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.crun]
  runtime_type = "io.containerd.runc.v2"
  container_annotations = ["module.wasm.image/*"]
  pod_annotations = ["module.wasm.image/*"]
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.crun.options]
    BinaryName = "{crun}"
"""

# What makes crun hand a container to WasmEdge. Our runtime passes it over.
ANNOTATIONS = {"module.wasm.image/variant": "compat-smart"}

Times = dict[str, list[float]]


class Clock:
    """Collects how long things take, in seconds."""

    def __init__(self) -> None:
        self.times: Times = defaultdict(list)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self.times[name].append(time.perf_counter() - begun)


def one_round(node: Node, handler: str, clock: Clock) -> None:
    """A pod with a container that ends by itself and one that is stopped."""
    cri, config = node.cri, node.pod_config()

    def create(image: str) -> str:
        container = pb.ContainerConfig(
            metadata=pb.ContainerMetadata(name=image),
            image=pb.ImageSpec(image=node.image(image)),
            annotations=ANNOTATIONS,
            log_path=f"{image}.log",
        )
        return cri.create(pod, container, config)

    with clock("pod, container, its output and end"):
        with clock("RunPodSandbox"):
            pod = cri.run_pod(config, handler)
        with clock("CreateContainer"):
            hello = create("hello")
        with clock("StartContainer"):
            cri.start(hello)
        with clock("StartContainer to the end"):
            status = cri.wait(hello)
    log = Path(config.log_directory, "hello.log").read_text()
    if "hello from WASI" not in log or status.exit_code != 0:
        raise SystemExit(f"{handler}: hello ended with {status.exit_code}, log: {log or 'empty'}")
    sleep = create("sleep")
    cri.start(sleep)
    with clock("StopContainer"):
        cri.stop(sleep)
    with clock("RemoveContainer"):
        cri.remove(hello)
    cri.remove(sleep)
    with clock("StopPodSandbox"):
        cri.stop_pod(pod)
    with clock("RemovePodSandbox"):
        cri.remove_pod(pod)


def table(ours: Times, theirs: Times) -> str:
    """Medians side by side."""
    rows = [("ms, median", "wasm-sandboxer", "crun + WasmEdge", "ratio")]
    for name in ours:
        mine, other = statistics.median(ours[name]) * 1000, statistics.median(theirs[name]) * 1000
        rows.append((name, f"{mine:.1f}", f"{other:.1f}", f"{other / mine:.1f}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def pause_archive(path: Path) -> None:
    """An image for crun's pods whose one program sleeps. Our pods have no such process."""
    program, source = CACHE / "pause", CACHE / "pause.c"
    if not program.exists():
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text("int pause(void);\nint main(void) { for (;;) pause(); }\n")
        target = f"{platform.machine()}-linux-musl"
        zig = [sys.executable, "-m", "ziglang", "cc", "-target", target, "-static", "-Os", "-s"]
        environment = {
            **os.environ,
            "ZIG_GLOBAL_CACHE_DIR": str(CACHE / "zig"),
            "ZIG_LOCAL_CACHE_DIR": str(CACHE / "zig"),
        }
        subprocess.run([*zig, "-o", str(program), str(source)], check=True, env=environment)

    def add(archive: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(data), mode
        archive.addfile(info, io.BytesIO(data))

    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        add(archive, "pause", program.read_bytes(), 0o755)
    digest = hashlib.sha256(layer.getvalue()).hexdigest()
    config = {
        "os": "linux",
        "architecture": ARCHITECTURES[platform.machine()][0],
        "config": {"Entrypoint": ["/pause"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    with tarfile.open(path, mode="w") as archive:
        add(archive, "config.json", json.dumps(config).encode())
        add(archive, "layer.tar", layer.getvalue())
        saved = [{"Config": "config.json", "RepoTags": [PAUSE], "Layers": ["layer.tar"]}]
        add(archive, "manifest.json", json.dumps(saved).encode())


def without_unified(module: str, arguments: list[str]) -> None:
    """Run this module again where an empty tree of version 2 beside control groups of version 1 is hidden.

    crun would choose the empty one.
    """
    if UNIFIED.is_mount():
        script = f'umount {UNIFIED} && exec "$@"'
        command = ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, "-m", module, *arguments]
        os.execvp(command[0], command)


def main(arguments: list[str]) -> None:
    without_unified("tests.e2e.compare", arguments)
    rounds = int(arguments[0]) if arguments else 20
    crun = tools(peers=True) / "usr/bin/crun"
    clocks = {"wasm": Clock(), "crun": Clock()}
    with Node(extra=CRUN_CONFIG.format(crun=crun, pause=PAUSE), peers=True) as node:
        archive = node.sandboxer.folder / "pause.tar"
        pause_archive(archive)
        node.load(archive, PAUSE)
        for handler in clocks:
            one_round(node, handler, Clock())  # the first is slower with both, and tells nothing
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", end="\r", file=sys.stderr, flush=True)
            for handler, clock in clocks.items():
                one_round(node, handler, clock)
    print(table(clocks["wasm"].times, clocks["crun"].times))


if __name__ == "__main__":
    main(sys.argv[1:])
