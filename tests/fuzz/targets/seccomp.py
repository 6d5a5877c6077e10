"""``linux.seccomp``: any JSON is a filter that the kernel would take and the worker can live with, or refused."""

from __future__ import annotations

from sandbox_api.errors import InvalidArgument
from supervisor.oci.spec import json_object
from supervisor.seccomp import library
from supervisor.seccomp.profile import _ACTIONS, _OPERATORS, NEEDED, oci_filter
from tests.unit import bpf

from ..json_mutation import mutator
from ..values import check_text

MOST = 16384
KEYS = (
    *("defaultAction", "defaultErrnoRet", "architectures", "flags", "syscalls", "names", "action", "errnoRet", "args"),
    *("index", "value", "valueTwo", "op", "listenerPath"),
)
WORDS = tuple(f'"{word}"'.encode() for word in (*KEYS, *_ACTIONS, *_OPERATORS, *NEEDED, "seccomp", "chdir", "getcwd"))
mutate = mutator(KEYS)

_MOST_INSTRUCTIONS = 4096  # BPF_MAXINSNS (linux/bpf_common.h)
_NUMBERS = bpf.numbers("x86_64")


def run(data: bytes) -> None:
    try:
        program = oci_filter(json_object(data, "config.json"), "x86_64")
    except InvalidArgument as error:
        check_text(error)
        return
    assert 0 < len(program) <= 8 * _MOST_INSTRUCTIONS
    assert len(program) % 8 == 0
    for name in ("seccomp", "chdir", "getcwd"):
        assert bpf.verdict(program, _NUMBERS[name]) == library.ALLOW
    assert bpf.verdict(program, _NUMBERS["read"], arch=bpf.I386) == library.TRAP
