"""An OCI spec's ``linux.seccomp`` as a filter that a worker installs before its own."""

from __future__ import annotations

import errno
import platform
from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from sandbox_api.errors import InvalidArgument

from ..oci.spec import member
from . import library
from .library import ALLOW, ERRNO, LOG, TRACE, Compare, FilterBuilder

NEEDED = """
    openat close fstat newfstatat lseek read pread64 write mmap munmap mprotect brk rt_sigaction getpid exit_group
""".split()  # noqa: SIM905
"""Without these no module can be loaded and run: a profile that forbids one is refused."""

_ACTIONS = {
    "SCMP_ACT_KILL": library.KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": library.KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": library.KILL_PROCESS,
    "SCMP_ACT_TRAP": library.TRAP,
    "SCMP_ACT_ERRNO": ERRNO,
    "SCMP_ACT_TRACE": TRACE,
    "SCMP_ACT_LOG": LOG,
    "SCMP_ACT_ALLOW": ALLOW,
}
_OPERATORS = {
    "SCMP_CMP_NE": library.NE,
    "SCMP_CMP_LT": library.LT,
    "SCMP_CMP_LE": library.LE,
    "SCMP_CMP_EQ": library.EQ,
    "SCMP_CMP_GE": library.GE,
    "SCMP_CMP_GT": library.GT,
    "SCMP_CMP_MASKED_EQ": library.MASKED_EQ,
}
MAX_RULES = 1024
"""Rules: one name with its conditions each. The usual default profile has 500; a filter ends at 4,096 instructions."""
MAX_CONDITIONAL, MAX_BESIDE_PAIR, MAX_PAIRS = 64, 4, 2
"""Rules with conditions for one call; and where one of them, or two, have conditions on several arguments.

libseccomp 2.5 may never come to an end with more: it merges them into a tree, and of a hundred profiles at random with
three such rules two took it minutes. Podman's and CRI-O's own has one, beside three simple ones, for socket(2)."""
_MAX_ERRNO = 4095
_OURS = ("seccomp", "chdir", "getcwd")  # the worker's last steps


def oci_filter(profile: Mapping[str, Any], machine: str = platform.machine()) -> bytes:
    """Build the filter program of an OCI spec's ``linux.seccomp`` (config-linux.md, "Seccomp").

    It is installed before the worker's own, and the kernel takes the stricter of both, so neither widens the
    other. Two things differ from what runc makes of it: the calls of the worker's last steps pass, since the worker's
    own filter comes after and forbids them; and no other ABI of the machine is let in, whatever ``architectures`` says.
    Raises ``InvalidArgument`` where it is malformed, wants a listener, or forbids what the engine cannot do
    without (``NEEDED``), and ``SeccompMissing``.
    """
    where = "linux.seccomp"
    _strings(profile, "architectures", where)
    _strings(profile, "flags", where)
    default = _action(profile, "defaultAction", "defaultErrnoRet", where)
    every = (rule for each in _objects(profile, "syscalls", where) for rule in _rules(each))
    rules = list(islice(every, MAX_RULES + 1))
    if len(rules) > MAX_RULES:
        raise InvalidArgument(f"config.json: {where}.syscalls comes to more than {MAX_RULES} rules, which is the most")
    _require_needed(default, rules)
    _require_simple(rules)
    with FilterBuilder(default, machine) as builder:
        for action, name, compares in rules:
            if name not in _OURS:
                try:
                    builder.rule(action, name, *compares)
                except OSError as error:
                    raise InvalidArgument(f"config.json: {where}: {error}") from None
        for name in _OURS:
            builder.rule(ALLOW, name)
        return builder.program()


_Rule = tuple[int, str, list[Compare]]


def _rules(entry: Mapping[str, Any]) -> Iterable[_Rule]:
    where = "linux.seccomp.syscalls"
    action = _action(entry, "action", "errnoRet", where)
    compares = [_compare(each) for each in _objects(entry, "args", where)]
    names = _strings(entry, "names", where)
    if not names:
        raise InvalidArgument(f"config.json: {where} has an entry without names")
    # Conditions on one argument more than once are alternatives, as in runc: libseccomp takes one for each.
    alternatives = len({each.arg for each in compares}) < len(compares)
    for name in names:
        if alternatives:
            yield from ((action, name, [each]) for each in compares)
        else:
            yield action, name, compares


def _require_needed(default: int, rules: list[_Rule]) -> None:
    always = {name: action for action, name, compares in rules if not compares}
    sometimes = {name for action, name, compares in rules if compares and action in (ALLOW, LOG)}
    forbidden = [name for name in NEEDED if always.get(name, default) not in (ALLOW, LOG) and name not in sometimes]
    if forbidden:
        raise InvalidArgument(
            f"config.json: linux.seccomp forbids {', '.join(forbidden)}, without which the engine runs no module"
        )


def _require_simple(rules: list[_Rule]) -> None:
    conditions: defaultdict[str, list[int]] = defaultdict(list)
    for _, name, compares in rules:
        if compares:
            conditions[name].append(len(compares))
    for name, counts in conditions.items():
        pairs = sum(count > 1 for count in counts)
        most = MAX_CONDITIONAL if not pairs else MAX_BESIDE_PAIR if pairs == 1 else MAX_PAIRS
        if len(counts) > most:
            several = f", {pairs} of them on several arguments" if pairs else ""
            raise InvalidArgument(
                f"config.json: linux.seccomp has {len(counts)} rules with conditions for {name[:200]}{several}; "
                f"{most} is the most that libseccomp can be trusted with"
            )


def _action(owner: Mapping[str, Any], name: str, number: str, where: str) -> int:
    text = member(owner, name, str, where)
    action = _ACTIONS.get(text or "")
    if action is None:
        raise InvalidArgument(f"config.json: {where}.{name} is {text!r}, not one of {', '.join(_ACTIONS)}")
    if action not in (ERRNO, TRACE):
        return action
    value = member(owner, number, int, where)
    value = errno.EPERM if value is None else value
    if not 0 <= value <= _MAX_ERRNO:
        raise InvalidArgument(f"config.json: {where}.{number} is {value}, not 0 to {_MAX_ERRNO}")
    return action | value


def _compare(arg: Mapping[str, Any]) -> Compare:
    where = "linux.seccomp.syscalls.args"
    operator = _OPERATORS.get(member(arg, "op", str, where) or "")
    index = member(arg, "index", int, where)
    if operator is None or index is None or not 0 <= index <= 5:
        raise InvalidArgument(f"config.json: {where} needs an index of 0 to 5 and an op of {', '.join(_OPERATORS)}")
    values = [member(arg, name, int, where) or 0 for name in ("value", "valueTwo")]
    if not all(0 <= value < 1 << 64 for value in values):
        raise InvalidArgument(f"config.json: {where} holds a value beyond 64 bits")
    return Compare(index, operator, *values)


def _strings(owner: Mapping[str, Any], name: str, where: str) -> list[str]:
    values = member(owner, name, list, where) or []
    # A library in C reads a name as far as its NUL.
    if not all(isinstance(value, str) and "\0" not in value for value in values):
        raise InvalidArgument(f"config.json: {where}.{name} holds something that is not a string without NUL")
    return values


def _objects(owner: Mapping[str, Any], name: str, where: str) -> list[dict[str, Any]]:
    values = member(owner, name, list, where) or []
    if not all(isinstance(value, dict) for value in values):
        raise InvalidArgument(f"config.json: {where}.{name} holds something that is not an object")
    return values
