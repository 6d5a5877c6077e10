"""``extensions.tasks``: how iSulad 2.1.6 and Kuasar's containerd hand containers over in dialect v2's Update.

An Any whose value is JSON: the whole list of a sandbox's containers, each with its processes.
"""

from __future__ import annotations

import json
from typing import Any

from .. import strict_json
from ..convert import MAX_MOUNTS, check_number, mount
from ..errors import InvalidArgument
from ..interface import Mount, NewContainer, NewExec, Preparation, Stdio

FIELD = "extensions.tasks"
KEY = "tasks"

MAX_TASKS = 4096
"""Containers and processes of a sandbox: the list comes whole with each of them."""


def parse(value: bytes) -> list[Preparation]:
    """Parse the list: containers before their processes. Raises ``InvalidArgument``."""
    try:
        root = strict_json.loads(value)
    except ValueError as error:
        raise InvalidArgument(f"{FIELD} is not JSON: {error}") from None
    found: list[Preparation] = []
    seen: dict[str, set[str]] = {}  # containers' processes
    tasks = _list(root, "tasks")
    check_number(FIELD, len(tasks), MAX_TASKS)
    for task in tasks:
        name = _text(task, "task_id")
        mounts = _list(task, "rootfs")
        check_number(f"{FIELD}: rootfs", len(mounts), MAX_MOUNTS)
        rootfs = tuple(_mount(each) for each in mounts)
        found.append(NewContainer(name, _spec(task), _stdio(task), rootfs))
        if name in seen:
            raise InvalidArgument(f"{FIELD}: {name} is in the list twice")
        seen[name] = set()
        for process in _list(task, "processes"):
            exec_id = _text(process, "exec_id")
            if not exec_id or exec_id in seen[name]:
                raise InvalidArgument(f"{FIELD}: {name}/{exec_id} is in the list twice")
            seen[name].add(exec_id)
            found.append(NewExec(name, exec_id, _spec(process), _stdio(process)))
            check_number(FIELD, len(found), MAX_TASKS)
    return found


def _spec(owner: dict[str, Any]) -> bytes:
    spec = owner.get("spec")
    if isinstance(spec, str):  # an object that was encoded twice
        return spec.encode()
    return json.dumps(spec).encode() if spec is not None else b""


def _stdio(owner: dict[str, Any]) -> Stdio:
    process = owner["spec"].get("process", owner["spec"]) if isinstance(owner.get("spec"), dict) else {}
    terminal = process.get("terminal") if isinstance(process, dict) else False
    return Stdio(_text(owner, "stdin"), _text(owner, "stdout"), _text(owner, "stderr"), terminal is True)


def _mount(each: object) -> Mount:
    if not isinstance(each, dict):
        raise InvalidArgument(f"{FIELD}: rootfs holds something that is not an object")
    options = each.get("options") or []
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise InvalidArgument(f"{FIELD}: rootfs: options is not a list of strings")
    target = _text(each, "target") or _text(each, "destination")
    return mount(_text(each, "type"), _text(each, "source"), target, options)


def _list(owner: object, name: str) -> list[dict[str, Any]]:
    values = owner.get(name) if isinstance(owner, dict) else None
    if values is None and isinstance(owner, dict):
        return []
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise InvalidArgument(f"{FIELD}: {name} is not a list of objects")
    return values


def _text(owner: dict[str, Any], name: str) -> str:
    value = owner.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidArgument(f"{FIELD}: {name} is {type(value).__name__}, not a string")
    return value or ""
