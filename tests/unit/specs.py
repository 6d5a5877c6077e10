"""A config.json with every member that is read, one with only those that must be there, and what comes of them."""

from __future__ import annotations

import copy
import json
from typing import Any

from supervisor.oci import wasi
from supervisor.oci.spec import ProcessSpec
from workers.start_request import REPORT, STDERR, STDIN, STDOUT, Descriptors, StartRequest

LEAST: dict[str, Any] = {"process": {"args": ["/app.wasm"]}, "root": {"path": "rootfs"}}

FULL: dict[str, Any] = {
    "ociVersion": "1.2.0",
    "process": {
        "terminal": False,
        "args": ["/app.wasm#main", "one"],
        "env": ["A=1", "PATH=/bin"],
        "cwd": "/work",
        "user": {"uid": 1000, "gid": 1001, "additionalGids": [10, 20]},
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 128}],
        "oomScoreAdj": 500,
        "noNewPrivileges": True,
        "capabilities": {"bounding": ["CAP_CHOWN"], "effective": []},
    },
    "root": {"path": "rootfs", "readonly": True},
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/data", "type": "bind", "source": "/srv", "options": ["rbind", "ro"]},
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "size=1m"]},
    ],
    "annotations": {"io.kubernetes.cri.sandbox-id": "pod"},
    "linux": {
        "cgroupsPath": "/k8s/pod",
        "namespaces": [{"type": "pid"}, {"type": "network", "path": "/run/netns/x"}],
        "resources": {"memory": {"limit": 1 << 26}},
        "maskedPaths": ["/proc/kcore", "/etc//shadow/"],
        "readonlyPaths": ["/proc/sys"],
        "seccomp": {"defaultAction": "SCMP_ACT_ALLOW"},
    },
}


def full() -> dict[str, Any]:
    return copy.deepcopy(FULL)


def text(config: object) -> bytes:
    return json.dumps(config).encode()


def config(process: dict[str, Any] | None = None, **members: Any) -> bytes:
    """The least config with these members of its own and of its process."""
    return text({**LEAST, **members, "process": {**LEAST["process"], **(process or {})}})


def start_request(process: ProcessSpec, instance: int = 1, **members: Any) -> StartRequest:
    """The request that a worker gets for this process, with no limits, groups or network but these members."""
    descriptors = Descriptors()
    for role in (REPORT, STDIN, STDOUT, STDERR):
        descriptors.put(role, 0)
    context = wasi.WasiContext(memory_limit=members.pop("memory_limit", 0))
    placement = wasi.Placement(**({"descriptors": descriptors} | members))
    return wasi.request(instance, process, context, placement)
