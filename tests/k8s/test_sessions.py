"""What people do to a pod that runs: follow its log, attach, exec with input, forward a port."""

from __future__ import annotations

import re
import subprocess
import urllib.request

from .cluster import Cluster
from .kubectl import Kubectl
from .pods import container, pod
from .test_workloads import finished


def test_a_followed_log_has_every_line_and_ends_with_the_guest(cluster: Cluster, kubectl: Kubectl) -> None:
    cluster.image("tick")
    kubectl.apply(pod("p", container("tick", "200")))
    kubectl.wait("pod/p", "condition=Ready")
    followed = kubectl.run("logs", "--follow", "p", seconds=60)
    assert followed.splitlines() == [f"tick {number}" for number in range(1, 201)]
    assert finished(kubectl, "p") == 0


def test_attach_passes_input_and_output(cluster: Cluster, kubectl: Kubectl) -> None:
    cluster.image("cat")
    kubectl.apply(pod("p", container("cat", stdin=True, stdinOnce=True)))
    kubectl.wait("pod/p", "condition=Ready")
    command = kubectl.command("attach", "--quiet", "--stdin", "p")
    done = subprocess.run(command, input=b"one\ntwo\n", capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, b"one\ntwo\n"), done.stderr
    assert finished(kubectl, "p") == 0
    assert kubectl.run("logs", "p") == "one\ntwo\n"


def test_exec_passes_input_output_and_status(cluster: Cluster, kubectl: Kubectl) -> None:
    cluster.image("cat")
    kubectl.apply(pod("p", container("cat", stdin=True)))
    kubectl.wait("pod/p", "condition=Ready")
    assert kubectl.run("exec", "-i", "p", "--", "/cat.wasm", stdin="through and back") == "through and back"
    failed = subprocess.run(kubectl.command("exec", "p", "--", "/bin/exit.wasm", "9"), capture_output=True, check=False)
    assert failed.returncode == 9


def test_a_forwarded_port_reaches_the_guest(cluster: Cluster, kubectl: Kubectl) -> None:
    cluster.image("web")
    kubectl.apply(pod("p", container("web", "8080")))
    kubectl.wait("pod/p", "condition=Ready")
    with kubectl.forward("pod/p", 8080) as port:
        for _ in range(3):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
                assert answer.read() == b"hello from WASI\n"


def test_what_differs_from_a_linux_container(cluster: Cluster, kubectl: Kubectl) -> None:
    """docs/kubernetes.md, "What differs from a Linux container": each row that no other test shows."""
    cluster.image("files")
    cluster.image("args")
    kubectl.apply(
        pod("files", container("files", "l /proc", "l /sys", "r /etc/passwd", "l /dev", "l /")),
        pod("args", container("args", "one", env=[{"name": "A", "value": "b"}])),
    )
    assert finished(kubectl, "files") == 0
    files = kubectl.run("logs", "files")
    assert re.search(r"^/proc: (No such file|Not permitted|Operation not|Capabilities)", files, re.M), files
    assert not re.search(r"^/proc: \d+$", files, re.M)
    assert finished(kubectl, "args") == 0
    printed = kubectl.run("logs", "args").splitlines()
    assert "arg one" in printed
    assert "env A=b" in printed
    assert "env HOSTNAME=args" in printed
    print(files, printed)
