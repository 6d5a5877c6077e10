"""Path of a container's control group, from the OCI specification's ``linux.cgroupsPath``."""

from __future__ import annotations

from sandbox_api.errors import InvalidArgument

GroupPath = tuple[str, ...]
"""A group's place beneath the root of a hierarchy, a name for each level; () is the root."""

SHARED_LEAF = "wasm-shared"
"""In version 2, the group of all containers without limits under one parent (see ``v2``)."""

_LONGEST_NAME = 255  # NAME_MAX, in bytes


def parse_path(cgroups_path: str) -> GroupPath:
    """Read both forms: ``/kubepods/pod1/abc``, and systemd's ``slice:prefix:name``.

    The second becomes the tree that systemd would make: each dash of a slice's name is a level
    (systemd.slice(5)), and at its end stands ``prefix-name.scope``. A relative path starts at the root too.
    Raises ``InvalidArgument``.
    """
    parts = cgroups_path.split(":")
    if len(parts) == 3 and not cgroups_path.startswith("/"):
        names = _systemd(cgroups_path, *parts)
    else:
        names = tuple(name for name in cgroups_path.split("/") if name not in ("", "."))
    if not names:
        raise _wrong(cgroups_path, "names no group below the root")
    for name in names:
        _check_name(cgroups_path, name)
    if names[-1] == SHARED_LEAF:
        raise _wrong(cgroups_path, f"{SHARED_LEAF} is the group of all containers without limits")
    return names


def _systemd(whole: str, slice_name: str, prefix: str, name: str) -> GroupPath:
    if not name or any("/" in part for part in (slice_name, prefix, name)):
        raise _wrong(whole, "not of the form slice:prefix:name")
    unit = name if name.endswith(".slice") else f"{prefix}-{name}.scope" if prefix else f"{name}.scope"
    return (*_slices(whole, slice_name or "system.slice"), unit)


def _slices(whole: str, slice_name: str) -> GroupPath:
    if slice_name == "-.slice":
        return ()
    words = slice_name.removesuffix(".slice").split("-")
    if not slice_name.endswith(".slice") or not all(words):
        raise _wrong(whole, f"{slice_name!r} is not the name of a slice")
    return tuple("-".join(words[:count]) + ".slice" for count in range(1, len(words) + 1))


def _check_name(whole: str, name: str) -> None:
    if name in (".", ".."):
        raise _wrong(whole, f"{name!r} leads out of the hierarchy")
    if "\0" in name or "\n" in name:
        raise _wrong(whole, "a group's name holds a NUL or a line break")
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        raise _wrong(whole, "not Unicode text") from None
    if length > _LONGEST_NAME:
        raise _wrong(whole, f"a name of {length} bytes is longer than {_LONGEST_NAME}")


def _wrong(path: str, why: str) -> InvalidArgument:
    return InvalidArgument(f"linux.cgroupsPath {path!r}: {why}")
