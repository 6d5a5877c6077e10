"""LinuxResources, of a spec or an Update: any JSON is limits that can be written, or refused."""

from __future__ import annotations

from sandbox_api.errors import InvalidArgument
from supervisor.cgroups.resources import Resources, cpu_weight
from supervisor.oci import wasi
from supervisor.oci.spec import json_object

from ..json_mutation import mutator
from ..values import check, check_text

KEYS = (
    *("memory", "limit", "swap", "reservation", "cpu", "shares", "quota", "period", "cpus", "mems", "pids", "unified"),
    *("devices", "memory.high", "cgroup.freeze"),
)
WORDS = tuple(f'"{key}":'.encode() for key in KEYS)
mutate = mutator(KEYS)


def run(data: bytes) -> None:
    try:
        found = Resources.parse(json_object(data, "resources"))
    except InvalidArgument as error:
        check_text(error)
        return
    check(found)
    assert 0 <= wasi.max_pages(found.memory_limit or 0) <= 65536
    if found.cpu_shares is not None:
        assert 1 <= cpu_weight(found.cpu_shares) <= 10000
    for name, value in found.unified.items():
        assert "/" not in name
        assert not name.startswith("cgroup.")
        assert ".." not in name
        assert value
    for text in (found.cpus, found.mems):
        assert text.isascii()
        assert not set(text) - set("0123456789,-")
