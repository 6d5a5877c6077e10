"""START: all that a worker needs to become one WASM instance.

Its body is tagged fields: a reader skips an unknown tag, and has a default for an absent one.
Only what differs from its default is sent.
"""

from __future__ import annotations

from .protocol import (
    MAX_FDS,
    TAG,
    ProtocolError,
    pack,
    pack_numbers,
    pack_tagged,
    unpack,
    unpack_numbers,
    unpack_tagged,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

WASMEDGE, WASMTIME = b"wasmedge", b"wasmtime"
"""Names of engines. The first runs what names none."""

WASM, NATIVE, COMPONENT = 0, 1, 2
"""Kinds of module file: bytes of the guest's, or our own compiler's product of a module, or of a component."""

REPORT, MODULE, STDIN, STDOUT, STDERR, CGROUP, NETNS, FOLDER, RESOLVER = range(1, 10)
"""Roles of descriptors: the report pipe, the module file, the streams, each control group's ``cgroup.procs``, the
network namespace, a folder for each preopen, in the preopens' order, and the root of the C library's resolver."""

_NEEDED = (REPORT, MODULE, STDIN, STDOUT, STDERR)

# Tags. A number that is given up is never used again.
_INSTANCE, _ROLES, _ENGINE, _KIND, _FUNCTION, _ARGS, _ENV, _PREOPENS = range(1, 9)
_USER, _GROUPS, _RLIMITS, _OOM_SCORE_ADJ, _MAX_PAGES, _TERMINAL, _NETWORK, _SECCOMP = range(9, 17)
_IMAGEABLE, _INITIALIZE = 17, 18


class Descriptors:
    """The descriptors of a start request by their roles; alone in knowing the order in which they travel."""

    __slots__ = ("_by_role",)

    def __init__(self, roles: bytes = b"", first: int = 0) -> None:
        """The descriptors from ``first`` on, whose roles these are. Raises ``ProtocolError``."""
        self._by_role: dict[int, list[int]] = {REPORT: []}  # first, where a worker that fails finds it
        for fd, role in enumerate(roles, first):
            self.add(role, fd)
        if roles and not (roles[0] == REPORT and all(len(self.all(role)) == 1 for role in _NEEDED)):
            raise ProtocolError("a start request lacks a descriptor, or has one twice")

    def add(self, role: int, *fds: int) -> None:
        """Add descriptors of a role."""
        self._by_role.setdefault(role, []).extend(fds)

    def put(self, role: int, *fds: int) -> None:
        """Have these descriptors, and no others, in a role."""
        self._by_role[role] = list(fds)

    def all(self, role: int) -> list[int]:
        """The descriptors of a role."""
        return self._by_role.get(role, [])

    def one(self, role: int) -> int:
        """The descriptor of a role; -1 where there is none."""
        fds = self._by_role.get(role)
        return fds[0] if fds else -1

    @property
    def fds(self) -> list[int]:
        """All of them, as they travel."""
        return [fd for fds in self._by_role.values() for fd in fds]

    @property
    def roles(self) -> bytes:
        """The role of each of ``fds``."""
        return b"".join(bytes([role]) * len(fds) for role, fds in self._by_role.items())


class Preopen:
    """A folder the guest finds open: its place in the guest, and whether it may be written."""

    __slots__ = ("path", "readonly")

    def __init__(self, path: bytes, readonly: bool) -> None:
        self.path = path
        self.readonly = readonly


class StartRequest:
    """One instance."""

    __slots__ = (
        "args",
        "descriptors",
        "engine",
        "env",
        "function",
        "gid",
        "groups",
        "imageable",
        "initialize",
        "instance",
        "max_pages",
        "module_kind",
        "network",
        "oom_score_adj",
        "preopens",
        "rlimits",
        "seccomp",
        "terminal",
        "uid",
    )

    def __init__(
        self,
        *,
        instance: int,
        args: Sequence[bytes] = (),
        env: Sequence[bytes] = (),
        preopens: Sequence[Preopen] = (),
        descriptors: Descriptors | None = None,
        engine: bytes = WASMEDGE,
        function: bytes = b"_start",
        module_kind: int = WASM,
        uid: int = 0,
        gid: int = 0,
        groups: Sequence[int] = (),
        rlimits: Sequence[tuple[int, int, int]] = (),
        oom_score_adj: int | None = None,
        max_pages: int = 0,
        terminal: bool = False,
        network: bool = False,
        seccomp: Sequence[bytes] = (),
        imageable: bytes = b"",
        initialize: bytes = b"",
    ) -> None:
        self.instance = instance
        """The supervisor's number for this instance: unique for ever, unlike a pid."""
        self.args = list(args)
        self.env = list(env)
        """``NAME=value`` each."""
        self.preopens = list(preopens)
        self.descriptors = descriptors or Descriptors()
        """The sender's numbers, or, decoded, those that the worker will have."""
        self.engine = engine
        """Name of the engine that runs it."""
        self.function = function
        self.module_kind = module_kind
        self.uid = uid
        self.gid = gid
        self.groups = list(groups)
        self.rlimits = list(rlimits)
        """(resource, soft, hard) as in setrlimit(2); -1 is no limit."""
        self.oom_score_adj = oom_score_adj
        self.max_pages = max_pages
        """Bound on the linear memory in pages of 64 KiB; 0 leaves it to the module."""
        self.terminal = terminal
        """Stdin is a terminal, and becomes the controlling one."""
        self.network = network
        """Whether it may use sockets: it joins a network namespace, or is meant to have the host's network."""
        self.seccomp = list(seccomp)
        """Programs for seccomp(2) that come before the worker's own: the spec's filter, and one that guards logs."""
        self.imageable = imageable
        """The module's SHA-256 in hexadecimal where it may be mapped from an image of it loaded, since loading it runs
        none of its code; else empty."""
        self.initialize = initialize
        """Name of the export that is called once before the function, in the instance or in its image; may be empty."""

    def encode(self) -> bytes:
        """The body of a START frame."""
        fields = {
            _INSTANCE: pack_numbers(self.instance),  # these three first: see ``likeness``
            _ARGS: pack(self.args),
            _ENV: pack(self.env),
            _ROLES: self.descriptors.roles,
        }
        if self.preopens:
            fields[_PREOPENS] = pack([bytes([preopen.readonly]) + preopen.path for preopen in self.preopens])
        if self.engine != WASMEDGE:
            fields[_ENGINE] = self.engine
        if self.module_kind:
            fields[_KIND] = pack_numbers(self.module_kind)
        if self.function != b"_start":
            fields[_FUNCTION] = self.function
        if self.uid or self.gid:
            fields[_USER] = pack_numbers(self.uid, self.gid)
        if self.groups:
            fields[_GROUPS] = pack_numbers(*self.groups)
        if self.rlimits:
            fields[_RLIMITS] = pack_numbers(*(number for limit in self.rlimits for number in limit))
        if self.oom_score_adj is not None:
            fields[_OOM_SCORE_ADJ] = pack_numbers(self.oom_score_adj)
        if self.max_pages:
            fields[_MAX_PAGES] = pack_numbers(self.max_pages)
        if self.terminal:
            fields[_TERMINAL] = b""
        if self.network:
            fields[_NETWORK] = b""
        if self.seccomp:
            fields[_SECCOMP] = pack(self.seccomp)
        if self.imageable:
            fields[_IMAGEABLE] = self.imageable
        if self.initialize:
            fields[_INITIALIZE] = self.initialize
        return pack_tagged(fields)

    @staticmethod
    def likeness(body: bytes) -> bytes:
        """A decoded START frame's body but for number, arguments and environment: the same for processes alike.

        Where these three do not come first, it is the whole body.
        """
        at = 0
        for tag in (_INSTANCE, _ARGS, _ENV):
            found, length = TAG.unpack_from(body, at)
            if found != tag:
                return body
            at += TAG.size + length
        return body[at:]

    @classmethod
    def decode(cls, body: bytes, first: int = 0) -> StartRequest:
        """The request in a START frame's body, whose descriptors will be those from ``first`` on.

        Raises ``ProtocolError``.
        """
        fields = unpack_tagged(body)
        get = fields.get
        roles = get(_ROLES, b"")
        if _INSTANCE not in fields or not roles or len(roles) > MAX_FDS:
            raise ProtocolError("a start request has a number and descriptors, and this has not")
        preopens = unpack(fields[_PREOPENS]) if _PREOPENS in fields else []
        (uid, gid) = _numbers(fields[_USER], 2) if _USER in fields else (0, 0)
        groups = unpack_numbers(get(_GROUPS, b""))
        limits = unpack_numbers(get(_RLIMITS, b""))
        request = cls(
            instance=_numbers(fields[_INSTANCE], 1)[0],
            args=unpack(fields[_ARGS]) if _ARGS in fields else (),
            env=unpack(fields[_ENV]) if _ENV in fields else (),
            preopens=[Preopen(field[1:], field[:1] != b"\0") for field in preopens],
            descriptors=Descriptors(roles, first),
            engine=get(_ENGINE, WASMEDGE),
            function=get(_FUNCTION, b"_start"),
            module_kind=_numbers(fields[_KIND], 1)[0] if _KIND in fields else WASM,
            uid=uid,
            gid=gid,
            groups=groups,
            rlimits=[(limits[i], limits[i + 1], limits[i + 2]) for i in range(0, len(limits) - 2, 3)],
            oom_score_adj=_numbers(fields[_OOM_SCORE_ADJ], 1)[0] if _OOM_SCORE_ADJ in fields else None,
            max_pages=_numbers(fields[_MAX_PAGES], 1)[0] if _MAX_PAGES in fields else 0,
            terminal=_TERMINAL in fields,
            network=_NETWORK in fields,
            seccomp=unpack(fields[_SECCOMP]) if _SECCOMP in fields else (),
            imageable=get(_IMAGEABLE, b""),
            initialize=get(_INITIALIZE, b""),
        )
        if len(limits) % 3 or not all(preopens) or len(preopens) != len(request.descriptors.all(FOLDER)):
            raise ProtocolError("a start request's limits or preopens do not fit")
        request._check()
        return request

    def _check(self) -> None:
        # -1 would leave root what it is (setresuid(2)).
        if not all(0 <= number < 0xFFFFFFFF for number in (self.uid, self.gid, *self.groups)):
            raise ProtocolError(f"user {self.uid}, group {self.gid} or one of {self.groups} is out of range")
        if self.module_kind not in (WASM, NATIVE, COMPONENT):
            raise ProtocolError(f"there are no modules of kind {self.module_kind}")
        if self.oom_score_adj is not None and not -1000 <= self.oom_score_adj <= 1000:
            raise ProtocolError(f"OOM score {self.oom_score_adj} is out of range")
        if not 0 <= self.max_pages <= 65536:
            raise ProtocolError(f"{self.max_pages} pages are out of range")


def _numbers(field: bytes, count: int) -> tuple[int, ...]:
    numbers = unpack_numbers(field)
    if len(numbers) != count:
        raise ProtocolError(f"a field of {count} numbers has {len(numbers)}")
    return numbers
