"""Values of ours as the state file has them, and back."""

from __future__ import annotations

import json
from typing import Any

from sandbox_api.interface import Mount, NewContainer, NewExec, Preparation, Stdio

from ..model.prepared import Prepared
from ..oci.rootfs import MountPlan
from ..oci.spec import Bind, Tmpfs


def members(value: Any) -> dict[str, object]:
    """A dataclass with slots as JSON; ``dataclasses.asdict`` would copy all that is in it first."""
    return {name: getattr(value, name) for name in value.__slots__}


def plan_of(text: str) -> MountPlan:
    """A plan from its JSON."""
    values = json.loads(text)
    for name in ("inner", "masked", "readonly"):
        values[name] = tuple(values[name])
    values["rootfs"] = _mounts(values["rootfs"])
    values["binds"] = tuple(Bind(**each) for each in values["binds"])
    values["tmpfs"] = tuple(Tmpfs(**each) for each in values["tmpfs"])
    return MountPlan(**values)


PREPARED = "sandbox_id, container_id, exec_id, spec, rootfs, stdin, stdout, stderr, terminal, bundle, listed, digest"


def prepared(
    sandbox_id: str,
    container_id: str,
    exec_id: str,
    spec: bytes,
    rootfs: str,
    stdin: str,
    stdout: str,
    stderr: str,
    terminal: int,
    bundle: str,
    listed: int,
    digest: str,
) -> Prepared[Any]:
    """A preparation from its row: ``PREPARED``."""
    stdio = Stdio(stdin, stdout, stderr, bool(terminal))
    new: Preparation
    if exec_id:
        new = NewExec(container_id, exec_id, spec, stdio)
    else:
        new = NewContainer(container_id, spec, stdio, _mounts(json.loads(rootfs)))
    return Prepared(sandbox_id, new, bundle, bool(listed), digest)


def _mounts(values: list[dict[str, Any]]) -> tuple[Mount, ...]:
    return tuple(Mount(**{**each, "options": tuple(each["options"])}) for each in values)
