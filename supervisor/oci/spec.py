"""The part of an OCI runtime spec (config.json) that means something to a WASM instance.

Source of every name: the OCI runtime specification 1.2, config.md and config-linux.md.
"""

from __future__ import annotations

import posixpath
import reprlib
import resource
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sandbox_api import strict_json
from sandbox_api.errors import InvalidArgument

from ..host import linux
from .mount_options import PROPAGATING, BindOptions, of_bind

T = TypeVar("T")

PASSED_OVER = frozenset({"proc", "sysfs", "devpts", "mqueue", "cgroup", "cgroup2"})
"""Mount types that mean nothing to WASI."""

MAX_BYTES = 1 << 20
"""Bytes of a spec's JSON. It is read where every client waits for it: 20 ms at most."""

MAX_MOUNTS = 128
"""Each may be a preopen, and all descriptors of a start travel in one message (unix(7), SCM_MAX_FD)."""

MAX_PARTS = 64
"""Of a mount's destination: each folder of it that its root lacks is made."""

_MAX_ANNOTATIONS = 16384
_MAX_NAME = 4096  # PATH_MAX (limits.h): strings by themselves are paths and names
_CAPABILITY_SETS = ("bounding", "effective", "inheritable", "permitted", "ambient")
_MOST = {
    "mounts": 2 * MAX_MOUNTS,  # with those that are passed over, or hidden by later ones
    "mounts.options": 64,
    "linux.maskedPaths": 256,
    "linux.readonlyPaths": 256,
    "linux.namespaces": 64,
    "process.args": 32768,
    "process.env": 32768,
    "process.rlimits": 64,
    **{f"process.capabilities.{name}": 256 for name in _CAPABILITY_SETS},
    "process.user.additionalGids": 65536,  # NGROUPS_MAX (getgroups(2))
}
"""Members of each list, looked at before anything else of it is."""

_USUAL_CAPABILITIES = frozenset(
    {
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FSETID",
        "CAP_FOWNER",
        "CAP_MKNOD",
        "CAP_NET_RAW",
        "CAP_SETGID",
        "CAP_SETUID",
    }
    | {"CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE"}
)
"""Capabilities that engines ask for by default (containerd: pkg/oci, defaultUnixCaps)."""

_DEFAULT_TMPFS = frozenset({"/dev", "/dev/shm"})
_MOST_NUMBER = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Rlimit:
    """A limit by its number in setrlimit(2); -1 is none."""

    resource: int
    soft: int
    hard: int


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """A process to run, and its user."""

    args: tuple[str, ...]
    env: tuple[str, ...] = ()
    cwd: str = "/"
    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    rlimits: tuple[Rlimit, ...] = ()
    oom_score_adj: int | None = None
    terminal: bool = False


@dataclass(frozen=True, slots=True)
class Bind:
    """A file or folder of the host's, at ``destination`` in the guest."""

    destination: str
    source: str
    readonly: bool = False
    attributes: int = 0
    deep_attributes: int = 0
    recursive: bool = True

    @property
    def options(self) -> BindOptions:
        """Its options, as the kernel has them."""
        readonly = linux.MOUNT_ATTR_RDONLY if self.readonly else 0
        return BindOptions(self.attributes | readonly, self.deep_attributes, self.recursive)


@dataclass(frozen=True, slots=True)
class Tmpfs:
    """A private tmpfs at ``destination``; ``data`` is what mount(2) gets (size=, mode=, ...)."""

    destination: str
    readonly: bool = False
    data: str = ""


@dataclass(frozen=True, slots=True)
class Spec:
    """A container's spec."""

    process: ProcessSpec
    root: str
    root_readonly: bool = False
    binds: tuple[Bind, ...] = ()
    tmpfs: tuple[Tmpfs, ...] = ()
    annotations: dict[str, str] = field(default_factory=dict)
    cgroups_path: str = ""
    resources: dict[str, Any] = field(default_factory=dict)
    """LinuxResources as the spec has them."""
    private_network: bool = False
    """A network namespace is asked for, as opposed to the host's network."""
    seccomp: dict[str, Any] = field(default_factory=dict)
    """``linux.seccomp`` as the spec has it; empty where there is none."""
    masked: tuple[str, ...] = ()
    readonly: tuple[str, ...] = ()
    """``maskedPaths`` and ``readonlyPaths``, normalised."""
    added_capabilities: tuple[str, ...] = ()
    """Those that are asked for beyond what engines ask for in every container. None is ever given."""
    netns: str = ""
    """Path of the network namespace to join; "" with ``private_network`` is no network at all."""


def parse(text: bytes) -> Spec:
    """Read a config.json. Raises ``InvalidArgument`` that says which member is wrong and why."""
    root = json_object(text, "config.json")
    process = member(root, "process", dict)
    if process is None:
        raise InvalidArgument("config.json: process is missing")
    of_linux = member(root, "linux", dict) or {}
    rootfs = member(root, "root", dict)
    if rootfs is None or not member(rootfs, "path", str, "root"):
        raise InvalidArgument("config.json: root.path is missing")
    binds, tmpfs = _mounts(member(root, "mounts", list) or [])
    if len(binds) + len(tmpfs) > MAX_MOUNTS:
        raise InvalidArgument(f"config.json: {len(binds) + len(tmpfs)} mounts; {MAX_MOUNTS} is the most")
    private, netns = _network(member(of_linux, "namespaces", list, "linux") or [])
    return Spec(
        process=parse_process(process),
        root=rootfs["path"],
        root_readonly=member(rootfs, "readonly", bool, "root") or False,
        binds=binds,
        tmpfs=tmpfs,
        annotations=_annotations(member(root, "annotations", dict) or {}),
        cgroups_path=member(of_linux, "cgroupsPath", str, "linux") or "",
        resources=member(of_linux, "resources", dict, "linux") or {},
        private_network=private,
        netns=netns,
        seccomp=member(of_linux, "seccomp", dict, "linux") or {},
        masked=_paths(of_linux, "maskedPaths"),
        readonly=_paths(of_linux, "readonlyPaths"),
        added_capabilities=_added_capabilities(member(process, "capabilities", dict, "process") or {}),
    )


def parse_process(process: Mapping[str, Any], terminal: bool = False) -> ProcessSpec:
    """Read the ``process`` member of a spec, or the spec of an exec. Raises ``InvalidArgument``."""
    args = _strings(process, "args", "process")
    if not args or not args[0]:
        raise InvalidArgument("config.json: process.args is empty: its first names the module")
    env = _strings(process, "env", "process")
    for each in env:
        if "=" not in each:
            raise InvalidArgument(f"config.json: process.env: {reprlib.repr(each)} is not NAME=value")
    cwd = member(process, "cwd", str, "process") or "/"
    if not cwd.startswith("/"):
        raise InvalidArgument(f"config.json: process.cwd {cwd!r} is not an absolute path")
    user = member(process, "user", dict, "process") or {}
    groups = member(user, "additionalGids", list, "process.user") or []
    adj = member(process, "oomScoreAdj", int, "process")
    if adj is not None and not -1000 <= adj <= 1000:
        raise InvalidArgument(f"config.json: process.oomScoreAdj {adj} is not from -1000 to 1000")
    return ProcessSpec(
        args=args,
        env=env,
        cwd="/" + posixpath.normpath(cwd).lstrip("/"),
        uid=_id(member(user, "uid", int, "process.user"), "uid"),
        gid=_id(member(user, "gid", int, "process.user"), "gid"),
        groups=tuple(_id(group, "additionalGids") for group in groups),
        rlimits=tuple(_rlimit(limit) for limit in member(process, "rlimits", list, "process") or []),
        oom_score_adj=adj,
        terminal=terminal or member(process, "terminal", bool, "process") or False,
    )


def parse_exec(text: bytes) -> ProcessSpec:
    """Read the process spec of an exec, as JSON. Raises ``InvalidArgument``."""
    return parse_process(json_object(text, "exec spec"))


def member(owner: Mapping[str, Any], name: str, kind: type[T], where: str = "") -> T | None:
    """A member of a JSON object, or None where it is absent or null. Raises ``InvalidArgument``."""
    value = owner.get(name)
    if value is None:
        return None
    if isinstance(value, str) and "\0" in value:
        raise InvalidArgument(f"config.json: {where}.{name} holds a NUL".replace(" .", " "))
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        path = f"{where}.{name}" if where else name
        raise InvalidArgument(f"config.json: {path} is {type(value).__name__}, not {kind.__name__}")
    if isinstance(value, list | str):
        path = f"{where}.{name}" if where else name
        most = _MAX_NAME if isinstance(value, str) else _MOST.get(path, MAX_BYTES)
        if len(value) > most:
            entries = "characters" if isinstance(value, str) else "entries"
            raise InvalidArgument(f"config.json: {path} has {len(value)} {entries}; {most} is the most")
    return value


def json_object(text: bytes, what: str) -> dict[str, Any]:
    """A JSON object in UTF-8, of bounded size. Raises ``InvalidArgument``."""
    if len(text) > MAX_BYTES:
        raise InvalidArgument(f"{what} has {len(text)} bytes; {MAX_BYTES} is the most")
    try:
        value = strict_json.loads(text)
    except ValueError as error:
        raise InvalidArgument(f"{what} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidArgument(f"{what} is a JSON {type(value).__name__}, not an object")
    return value


def _strings(owner: Mapping[str, Any], name: str, where: str) -> tuple[str, ...]:
    values = member(owner, name, list, where) or []
    for value in values:
        if not isinstance(value, str) or "\0" in value:
            raise InvalidArgument(f"config.json: {where}.{name} holds something that is not a string without NUL")
    return tuple(values)


def _id(value: object, name: str) -> int:
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 0xFFFFFFFF:
        raise InvalidArgument(f"config.json: process.user.{name}: {reprlib.repr(value)} is not a user or group number")
    return value


def _rlimit(limit: object) -> Rlimit:
    if not isinstance(limit, dict):
        raise InvalidArgument("config.json: process.rlimits holds something that is not an object")
    name = member(limit, "type", str, "process.rlimits") or ""
    number = getattr(resource, name, None) if name.startswith("RLIMIT_") else None
    if not isinstance(number, int):
        raise InvalidArgument(f"config.json: process.rlimits: no limit is called {name!r}")
    soft, hard = (member(limit, key, int, "process.rlimits") or 0 for key in ("soft", "hard"))
    if not 0 <= soft <= hard <= _MOST_NUMBER:
        raise InvalidArgument(
            f"config.json: process.rlimits: {name}: soft {soft} and hard {hard} are not 0 <= soft <= hard < 2^64"
        )
    # From 2^63 on it is no limit, as is RLIM_INFINITY: all bits set.
    return Rlimit(number, *(-1 if value >= 1 << 63 else value for value in (soft, hard)))


def _mounts(mounts: list[Any]) -> tuple[tuple[Bind, ...], tuple[Tmpfs, ...]]:
    binds: dict[str, Bind] = {}
    tmpfs: dict[str, Tmpfs] = {}
    for mount in mounts:
        if not isinstance(mount, dict):
            raise InvalidArgument("config.json: mounts holds something that is not an object")
        kind = member(mount, "type", str, "mounts") or ""
        options = _strings(mount, "options", "mounts")
        if kind in PASSED_OVER:
            continue
        destination = _destination(member(mount, "destination", str, "mounts") or "")
        readonly = [each for each in options if each in ("ro", "rw")][-1:] == ["ro"]  # the last counts, as with runc
        for earlier in (*binds, *tmpfs):  # the later mount hides the earlier one, and what was mounted below it
            if earlier == destination or earlier.startswith(destination + "/"):
                binds.pop(earlier, None)
                tmpfs.pop(earlier, None)
        if kind == "bind" or "bind" in options or "rbind" in options:
            source = member(mount, "source", str, "mounts") or ""
            if asks := PROPAGATING.intersection(options):
                raise InvalidArgument(
                    f"config.json: mounts: {destination}: mount propagation ({', '.join(sorted(asks))}) is not "
                    "supported: mounts that came later would lack nodev, nosuid and noexec"
                )
            asked = of_bind(option for option in options if option != "ro")
            readonly = readonly or "rro" in options
            binds[destination] = Bind(destination, source, readonly, asked.attributes, asked.deep, asked.recursive)
        elif kind == "tmpfs":
            if destination in _DEFAULT_TMPFS:
                continue
            data = ",".join(option for option in options if "=" in option)
            tmpfs[destination] = Tmpfs(destination, readonly, data)
        else:
            raise InvalidArgument(
                f"config.json: mounts: {destination}: unsupported mount type {kind!r} (supported: bind, tmpfs)"
            )
    return tuple(binds.values()), tuple(tmpfs.values())


def _destination(path: str) -> str:
    if not path.startswith("/"):
        raise InvalidArgument(f"config.json: mounts: destination {path!r} is not an absolute path")
    if ":" in path or "\0" in path:
        raise InvalidArgument(f"config.json: mounts: destination {path!r} holds a colon, which WASI's preopens cannot")
    normal = "/" + posixpath.normpath(path).lstrip("/")
    if (parts := normal.count("/")) > MAX_PARTS:
        raise InvalidArgument(f"config.json: mounts: a destination has {parts} parts; {MAX_PARTS} is the most")
    if normal == "/":
        raise InvalidArgument("config.json: mounts: '/' is the root file system: nothing else can be mounted there")
    return normal


def _paths(owner: Mapping[str, Any], name: str) -> tuple[str, ...]:
    paths = _strings(owner, name, "linux")
    normal = tuple("/" + posixpath.normpath(path).lstrip("/") for path in paths)  # which leaves "//" as it is
    for path, same in zip(paths, normal, strict=True):
        if len(path) > _MAX_NAME or not path.startswith("/") or same == "/":
            raise InvalidArgument(f"config.json: linux.{name}: {path[:200]!r} is not an absolute path below '/'")
    return normal


def _added_capabilities(sets: Mapping[str, Any]) -> tuple[str, ...]:
    asked: set[str] = set()
    for name in _CAPABILITY_SETS:
        asked.update(_strings(sets, name, "process.capabilities"))
    return tuple(sorted(asked - _USUAL_CAPABILITIES))


def _annotations(annotations: Mapping[str, Any]) -> dict[str, str]:
    if len(annotations) > _MAX_ANNOTATIONS:
        raise InvalidArgument(
            f"config.json: annotations has {len(annotations)} entries; {_MAX_ANNOTATIONS} is the most"
        )
    for key, value in annotations.items():
        if isinstance(value, list | dict):
            raise InvalidArgument(f"config.json: annotations: {key[:200]!r} is {type(value).__name__}, not str")
    return {key: str(value) for key, value in annotations.items()}


def _network(namespaces: list[Any]) -> tuple[bool, str]:
    for each in namespaces:
        if not isinstance(each, dict):
            raise InvalidArgument("config.json: linux.namespaces holds something that is not an object")
        if member(each, "type", str, "linux.namespaces") == "network":
            return True, member(each, "path", str, "linux.namespaces") or ""
    return False, ""
