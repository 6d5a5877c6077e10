"""critest, the specs that a CRI engine is held to, on containerd with this sandboxer: every failure has its reason."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from supervisor.commands.pack import Folder, Reference, pack_image
from tests.e2e.node import Node
from tests.harness.guests import guest

from .programs import TOOLS, programs

IMAGES = {
    "e2e-test-images/busybox:1.29-2": ("busybox", "sh"),
    "e2e-test-images/nginx:1.14-2": ("web", "80"),
    "e2e-test-images/httpd:2.4.39-4": ("web", "80"),
}
"""What the specs' images are here, by their names without the registry: a guest and its argument."""
APPLETS = ("sh", "top", "sleep", "echo", "cat", "hostname", "ls", "touch", "mkdir", "true", "pidof", "pgrep")
PID_SPECS = ("HostPID", "PodPID", "ContainerPID")
BOTH = ("true", "false")
USER_SPECS = ("SupplementalGroups", "RunAsUser", "RunAsUserName", "RunAsGroup")
PRIVILEGE_SPECS = (
    "Privileged is true",
    "adding capability",
    "dropping capability",
    "adding ALL capabilities",
    "dropping ALL capabilities",
)
SECCOMP_SPECS = (
    "should support seccomp unconfined on the container",
    "should support seccomp localhost profile on the container",
    "should support seccomp default on the container",
    "should support nil profile, which is unconfined",
)
HOSTNAME_SPECS = (
    "not block setting host name with unconfined seccomp and SYS_ADMIN",
    "ignore a seccomp profile that blocks setting hostname when privileged",
)
NOT_RUN = {
    "Image (Manager|Consistency|Identifier)": "about images of a registry, which are the engine's alone",
    "SupplementalGroupsPolicy|OOMKilled|NoNewPrivs|in host network": "their image is a registry's; it has no stand-in",
    "with host port and container port": "a host's port is the CNI plug-in portmap's, which wants iptables",
    "Multiple Containers.*container log": "about what httpd logs",
}
"""Specs that are left out, as regular expressions, and why."""

WASI, PROCESSES, NETSTAT = "WASI has no users", "WASI has no processes and no /proc", "WASI has no /proc/net"
PRIVILEGES = "no guest has a privilege, whatever its pod asks for"
EXPECTED = {
    "Container Mount Propagation runtime should support mount propagation mount with 'rprivate' should not support "
    "propagation": "its last step mounts in the container, for which no guest has the privilege",
    "Container Mount Propagation runtime should support mount propagation mount with 'rshared' should support "
    "propagation from host to container and vice versa": "propagation is refused: it would lack nodev,nosuid,noexec",
    "Container Mount Propagation runtime should support mount propagation mount with 'rslave' should support "
    "propagation from host to container": "propagation is refused: it would lack nodev,nosuid,noexec",
    "PodSandbox runtime should support sysctls should support safe sysctls": "kernel.shm_*: there is no IPC in WASI",
    "PodSandbox runtime should support sysctls should support unsafe sysctls": "fs.mqueue.*: there is no IPC in WASI",
    **{f"Security Context NamespaceOption runtime should support {name}": PROCESSES for name in PID_SPECS},
    **{
        f"Security Context NamespaceOption runtime should support HostIpc is {each}": "WASI has no IPC" for each in BOTH
    },
    "Security Context NamespaceOption runtime should support HostNetwork is true": NETSTAT,
    **{f"Security Context bucket runtime should support {name}": WASI for name in USER_SPECS},
    **{f"Security Context bucket runtime should support {name}": PRIVILEGES for name in PRIVILEGE_SPECS},
    **{f"Security Context SeccompProfilePath {name}": PROCESSES for name in SECCOMP_SPECS},
    **{f"Security Context SeccompProfilePath runtime should {name}": PRIVILEGES for name in HOSTNAME_SPECS},
}
"""Specs that fail here, and why."""


@pytest.fixture
def node(namespaces: None) -> Iterator[Node]:
    with Node(programs=programs()) as node:
        yield node


def load_images(node: Node, folder: Path) -> None:
    """Import what the specs run, in place of busybox and of servers."""
    command = ["go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/cri-tools"]
    source = subprocess.run(command, cwd=TOOLS / "cri", capture_output=True, text=True, check=True).stdout.strip()
    (registry,) = re.findall(
        r'DefaultRegistryPrefix += "(.*)"', Path(source, "pkg/framework/test_context.go").read_text()
    )
    applets = folder / "bin"
    applets.mkdir()
    for name in APPLETS:
        shutil.copy(guest("busybox"), applets / name)
    for name in ("etc", "tmp"):
        (folder / name).mkdir()
    (folder / "etc/passwd").write_text("root:x:0:0::/:\nnobody:x:65534:65534::/:\n")
    (folder / "tmp/here").touch()
    folders = [Folder(folder / name, PurePosixPath(f"/{name}")) for name in ("bin", "etc", "tmp")]
    archive = folder / "image.tar"
    for name, (module, *args) in IMAGES.items():
        image = f"{registry}/{name}"
        pack_image(guest(module), Reference.parse(image), archive, args=args, folders=folders)
        node.load(archive, image)


def test_specs_fail_for_known_reasons_alone(node: Node, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    load_images(node, tmp_path)
    command = [
        programs() / "usr/bin/critest",
        f"--runtime-endpoint=unix://{node.containerd.socket}",
        f"--image-endpoint=unix://{node.containerd.socket}",
        "--runtime-handler=wasm",
        f"--ginkgo.json-report={report}",
        *(f"--ginkgo.skip={each}" for each in NOT_RUN),
    ]
    with (tmp_path / "log").open("w") as log:
        scratch = {**os.environ, "TMPDIR": str(tmp_path)}  # it leaves its pods' logs there
        subprocess.run(command, stdout=log, stderr=log, env=scratch, check=False, timeout=1200)
    (suite,) = json.loads(report.read_text())
    states: dict[str, list[str]] = {}
    messages = {}
    for spec in suite["SpecReports"]:
        if spec["LeafNodeType"] == "It":
            name = " ".join([*spec["ContainerHierarchyTexts"], spec["LeafNodeText"]]).removeprefix("[k8s.io] ")
            states.setdefault(spec["State"], []).append(name)
            messages[name] = spec.get("Failure", {}).get("Message", "")
    print({state: len(names) for state, names in states.items()})
    failed = {name: messages[name][:500] for state in states.keys() - {"passed", "skipped"} for name in states[state]}
    assert {name: text for name, text in failed.items() if name not in EXPECTED} == {}
    assert EXPECTED.keys() - failed.keys() == set()  # what passes by now belongs to the others
    assert len(states["passed"]) >= 53
