"""``extensions.tasks``, iSulad's list of containers: JSON of any kind is a list that can be prepared, or refused."""

from __future__ import annotations

from sandbox_api.dialects import extension
from sandbox_api.errors import InvalidArgument
from sandbox_api.interface import NewContainer
from supervisor.lifecycle.preparations import _digest
from supervisor.model.registry import check_id
from supervisor.oci import spec, streams

from ..json_mutation import mutator
from ..values import check, check_text

MOST = 16384
KEYS = (
    *("tasks", "task_id", "spec", "rootfs", "processes", "exec_id", "stdin", "stdout", "stderr", "terminal", "process"),
    *("type", "source", "target", "destination", "options"),
)
WORDS = tuple(f'"{key}":'.encode() for key in KEYS)
mutate = mutator(KEYS)


def run(data: bytes) -> None:
    try:
        found = extension.parse(data)
    except InvalidArgument as error:
        check_text(error)
        return
    containers: set[str] = set()
    for each in found:
        check(each)
        _digest(each)
        if isinstance(each, NewContainer):
            assert each.container_id not in containers
            containers.add(each.container_id)
        else:
            assert each.container_id in containers
        for refuse in (
            lambda each=each: check_id("container", each.container_id),
            lambda each=each: (spec.parse if isinstance(each, NewContainer) else spec.parse_exec)(each.spec),
            lambda each=each: streams.check(each.stdio),
        ):
            try:
                refuse()
            except InvalidArgument:
                pass
