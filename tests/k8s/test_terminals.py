"""A terminal whose client is gone: what runs on it ends, or lives on, as it does with runc on the same node."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import time
from collections.abc import Callable

import psutil
import pytest

from .cluster import Cluster
from .kubectl import Kubectl
from .pods import container, pod
from .programs import node_image

LINUX = "wasm-sandboxer-node:1"
SETTLED = 8
"""Seconds after which the kubelet and containerd have noticed."""


def lives_on(kubectl: Kubectl, name: str, command: list[str], running: Callable[[], int], number: int) -> bool:
    """Whether an exec with a terminal runs on when ``kubectl exec -it`` was ended by a signal."""
    before = running()
    ours, theirs = pty.openpty()
    try:
        client = subprocess.Popen(
            kubectl.command("exec", "-it", name, "--", *command), stdin=theirs, stdout=theirs, stderr=theirs
        )
        deadline = time.monotonic() + 30
        while running() == before:
            assert time.monotonic() < deadline, os.read(ours, 4096)
            time.sleep(0.1)
        client.send_signal(number)
        client.wait(30)
    finally:
        os.close(ours)
        os.close(theirs)
    deadline = time.monotonic() + SETTLED
    while running() > before and time.monotonic() < deadline:
        time.sleep(0.1)
    return running() > before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
@pytest.mark.parametrize("what", ["cat", "sleep"])
def test_a_terminals_program_outlives_its_client_as_with_runc(
    cluster: Cluster, kubectl: Kubectl, what: str, number: signal.Signals
) -> None:
    cluster.load_pause()
    cluster.image(what)
    if not cluster.containerd.ctr("images", "ls", "-q", f"name~={LINUX}"):
        cluster.containerd.ctr("images", "import", node_image())
    linux = {"name": "c", "image": LINUX, "imagePullPolicy": "Never", "command": ["/bin/busybox", "sleep", "3600"]}
    kubectl.apply(pod("linux", linux, runtimeClassName=None), pod("wasm", container(what, "3600", stdin=True)))
    for name in ("linux", "wasm"):
        kubectl.wait(f"pod/{name}", "condition=Ready")

    def linux_processes() -> int:
        words = ["/bin/busybox", what, *arguments]
        return sum(each.info["cmdline"] == words for each in psutil.process_iter(["cmdline"]))

    arguments = ["3601"] if what == "sleep" else []
    theirs = lives_on(kubectl, "linux", ["/bin/busybox", what, *arguments], linux_processes, number)
    ours = lives_on(kubectl, "wasm", [f"/{what}.wasm", *arguments], lambda: len(cluster.sandboxer.workers()), number)
    print(f"{what} {number.name}: with runc {'lives on' if theirs else 'ends'}, here {'lives on' if ours else 'ends'}")
    assert ours == theirs
