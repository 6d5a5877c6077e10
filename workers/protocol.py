"""The control protocol between the supervisor and its two helpers: frames for both, messages of the forkserver's.

One Unix stream socket carries frames both ways. A frame is a header (body length, kind and number of
descriptors, little-endian) and a body of fields; its descriptors travel as SCM_RIGHTS with the frame's
first byte (unix(7)). Both ends are our own processes of one user; the decoder refuses what does not fit
all the same, so that a damaged stream ends in ``ProtocolError`` and never in a wrong request.
"""

from __future__ import annotations

import _socket  # the socket module imports enum and selectors, and every fork would carry them
import array
import os
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

VERSION = 5
"""Of the protocol; a forkserver of another version is not joined."""

MAX_BODY = 8 << 20
MAX_FDS = 250  # SCM_MAX_FD is 253 (unix(7))

# supervisor to forkserver
HELLO, START, KILL, ACK, END, PING = 1, 2, 3, 4, 5, 6
# forkserver to supervisor
WELCOME, FORKED, EXITED, KILLED, PONG = 16, 17, 18, 19, 20

READY, FAILED, REFUSED = b"R", b"F", b"X"
"""A worker's report is its pid, in 4 bytes, and one of these: about to run; set-up failed, why; module refused, why."""

OWN_PID = 0x5AFE0B1D
"""Stands in a seccomp filter where the worker puts its own pid; above every pid there is (proc_sys_kernel(5))."""

WASM, NATIVE = 0, 1
"""Kinds of module file: bytes of the guest's, or our own compiler's product."""

_HEADER = struct.Struct("<IHH")
_U32 = struct.Struct("<I")


class ProtocolError(Exception):
    """The peer sent bytes that are no frame of this protocol."""


class Frame:
    """One message: its kind, its body and the descriptors that came with it (owned by the frame)."""

    __slots__ = ("body", "fds", "kind", "lost")

    def __init__(self, kind: int, body: bytes, fds: list[int], lost: bool = False) -> None:
        self.kind = kind
        self.body = body
        self.fds = fds
        self.lost = lost
        """Its descriptors found no room in this process (open-file limit): there are none."""

    def close(self) -> None:
        """Close the descriptors that nobody took over."""
        for fd in self.fds:
            os.close(fd)
        self.fds = []


def pack(fields: Sequence[bytes]) -> bytes:
    """A list of byte strings as one: their number, then length and bytes of each."""
    parts = [_U32.pack(len(fields))]
    for field in fields:
        parts.append(_U32.pack(len(field)))
        parts.append(field)
    return b"".join(parts)


def unpack(body: bytes) -> list[bytes]:
    """What ``pack`` was given.

    Raises ``ProtocolError`` where the lengths do not add up.
    """
    if len(body) < 4:
        raise ProtocolError("body shorter than its field count")
    (count,) = _U32.unpack_from(body)
    if count > len(body) // 4:
        raise ProtocolError(f"{count} fields cannot be in {len(body)} bytes")
    fields = []
    at = 4
    for _ in range(count):
        if at + 4 > len(body):
            raise ProtocolError("body ends inside a field")
        (length,) = _U32.unpack_from(body, at)
        at += 4
        if at + length > len(body):
            raise ProtocolError("body ends inside a field")
        fields.append(body[at : at + length])
        at += length
    if at != len(body):
        raise ProtocolError("bytes left over after the last field")
    return fields


def pack_numbers(*numbers: int) -> bytes:
    """Signed 64-bit numbers, for the messages that hold nothing else."""
    return struct.pack(f"<{len(numbers)}q", *numbers)


def unpack_numbers(body: bytes) -> tuple[int, ...]:
    """What ``pack_numbers`` was given."""
    if len(body) % 8:
        raise ProtocolError(f"{len(body)} bytes are not a row of numbers")
    return struct.unpack(f"<{len(body) // 8}q", body)


def unpack_report(report: bytes) -> tuple[int, bytes]:
    """A worker's pid, or 0, and its verdict, as far as they came."""
    return int.from_bytes(report[:4], sys.byteorder), report[4:]


def encode(kind: int, body: bytes, fds: Sequence[int] = ()) -> tuple[bytes, list[tuple[int, int, array.array[int]]]]:
    """A frame's bytes, and the ancillary data that belongs with the first of them (for ``sendmsg``)."""
    if len(body) > MAX_BODY or len(fds) > MAX_FDS:
        raise ProtocolError(f"a frame of {len(body)} bytes and {len(fds)} descriptors is too large to send")
    rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    return _HEADER.pack(len(body), kind, len(fds)) + body, rights


def send(sock: _socket.socket, kind: int, body: bytes, fds: Sequence[int] = ()) -> None:
    """Send one frame on a blocking socket.

    Raises ``OSError`` when the peer is gone.
    """
    data, rights = encode(kind, body, fds)
    sent = sock.sendmsg([data], rights, _socket.MSG_NOSIGNAL)
    while sent < len(data):
        sent += sock.send(data[sent:], _socket.MSG_NOSIGNAL)


class Reader:
    """Cuts what arrives on a socket into frames, and gives each the descriptors that are its own."""

    __slots__ = ("_batches", "_buffer", "_sock")

    def __init__(self, sock: _socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray()
        # One for each frame that has any: they come with its first byte, and never with another's (unix(7)).
        self._batches: list[tuple[list[int], bool]] = []

    def receive(self) -> bool:
        """Read once from the socket; false at its end. Raises ``BlockingIOError`` where there is nothing."""
        space = _socket.CMSG_SPACE(MAX_FDS * 4)
        data, ancillary, flags, _ = self._sock.recvmsg(1 << 16, space, _socket.MSG_CMSG_CLOEXEC)
        fds = array.array("i")
        for level, what, payload in ancillary:
            if level == _socket.SOL_SOCKET and what == _socket.SCM_RIGHTS:
                fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
        if flags & _socket.MSG_CTRUNC:
            for fd in fds:
                os.close(fd)
            self._batches.append(([], True))
        elif fds:
            self._batches.append((list(fds), False))
        self._buffer += data
        return bool(data)

    def frames(self) -> Iterable[Frame]:
        """The whole frames read so far."""
        while len(self._buffer) >= _HEADER.size:
            length, kind, count = _HEADER.unpack_from(self._buffer)
            if length > MAX_BODY or count > MAX_FDS:
                raise ProtocolError(f"a frame of {length} bytes and {count} descriptors is too large")
            end = _HEADER.size + length
            if len(self._buffer) < end:
                return
            fds, lost = self._batches[0] if count and self._batches else ([], False)
            if len(fds) != count and not lost:
                raise ProtocolError(f"{count} descriptors announced, {len(fds)} came")
            if count:
                del self._batches[0]
            frame = Frame(kind, bytes(self._buffer[_HEADER.size : end]), fds, lost)
            del self._buffer[:end]
            yield frame
        if self._batches and not self._buffer:
            raise ProtocolError("descriptors came that no frame announced")

    def answer(self, kind: int, body: bytes, fds: Sequence[int] = ()) -> None:
        """Send a frame back. Raises ``OSError`` when the peer is gone."""
        send(self._sock, kind, body, fds)

    def close(self) -> None:
        """Close the socket and the descriptors of frames that never became whole."""
        for fds, _ in self._batches:
            for fd in fds:
                os.close(fd)
        self._batches.clear()
        self._sock.close()


class Preopen:
    """A folder the guest finds open: its place in the guest, and whether it may be written."""

    __slots__ = ("path", "readonly")

    def __init__(self, path: bytes, readonly: bool) -> None:
        self.path = path
        self.readonly = readonly


class StartRequest:
    """All a worker needs to become one WASM instance. Descriptors are listed apart, in a fixed order:
    report pipe, module, stdin, stdout, stderr, the cgroups' ``cgroup.procs``, the network namespace
    if any, then one folder for each preopen.
    """

    __slots__ = (
        "args",
        "cgroups",
        "env",
        "function",
        "gid",
        "groups",
        "instance",
        "max_pages",
        "module_kind",
        "netns",
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
        args: list[bytes],
        env: list[bytes],
        preopens: list[Preopen],
        function: bytes = b"_start",
        module_kind: int = WASM,
        uid: int = 0,
        gid: int = 0,
        groups: list[int] | None = None,
        rlimits: list[tuple[int, int, int]] | None = None,
        oom_score_adj: int | None = None,
        max_pages: int = 0,
        cgroups: int = 0,
        netns: bool = False,
        terminal: bool = False,
        network: bool = False,
        seccomp: bytes = b"",
    ) -> None:
        self.instance = instance
        """The supervisor's number for this instance: unique for ever, unlike a pid."""
        self.args = args
        self.env = env
        """``NAME=value`` each."""
        self.preopens = preopens
        self.function = function
        self.module_kind = module_kind
        self.uid = uid
        self.gid = gid
        self.groups = groups or []
        self.rlimits = rlimits or []
        """(resource, soft, hard) as in setrlimit(2); -1 is no limit."""
        self.oom_score_adj = oom_score_adj
        self.max_pages = max_pages
        """Bound on the linear memory in pages of 64 KiB; 0 leaves it to the module."""
        self.cgroups = cgroups
        """How many ``cgroup.procs`` descriptors there are."""
        self.netns = netns
        self.terminal = terminal
        """Stdin is a terminal, and becomes the controlling one."""
        self.network = network
        """Whether it may use sockets: it joins a network namespace, or is meant to have the host's network."""
        self.seccomp = seccomp
        """The spec's own filter, a program for seccomp(2); empty where there is none."""

    def fd_count(self) -> int:
        """How many descriptors belong to this request."""
        return 5 + self.cgroups + int(self.netns) + len(self.preopens)

    def encode(self) -> bytes:
        """The body of a START frame."""
        adj = -32768 if self.oom_score_adj is None else self.oom_score_adj
        numbers = pack_numbers(
            self.instance,
            self.module_kind,
            self.uid,
            self.gid,
            adj,
            self.max_pages,
            self.cgroups,
            int(self.netns),
            int(self.terminal),
            int(self.network),
        )
        return pack(
            [
                numbers,
                self.function,
                pack(self.args),
                pack(self.env),
                pack([bytes([preopen.readonly]) + preopen.path for preopen in self.preopens]),
                pack_numbers(*self.groups),
                pack_numbers(*(number for limit in self.rlimits for number in limit)),
                self.seccomp,
            ]
        )

    @staticmethod
    def besides_instance(body: bytes) -> bytes:
        """A START frame's body but for the instance's number: the same for processes that are alike."""
        return body[:8] + body[16:]  # the number of fields, the first one's length, and the number

    @classmethod
    def decode(cls, body: bytes) -> StartRequest:
        """The request in a START frame's body. Raises ``ProtocolError``."""
        fields = unpack(body)
        if len(fields) != 8:
            raise ProtocolError(f"a start request has 8 fields, not {len(fields)}")
        numbers = unpack_numbers(fields[0])
        limits = unpack_numbers(fields[6])
        if len(numbers) != 10 or len(limits) % 3:
            raise ProtocolError("a start request's numbers do not fit")
        instance, kind, uid, gid, adj, pages, cgroups, netns, terminal, network = numbers
        # -1 would leave root what it is (setresuid(2)).
        if kind not in (WASM, NATIVE) or not 0 <= min(uid, gid) <= max(uid, gid) < 0xFFFFFFFF:
            raise ProtocolError(f"module of kind {kind} for user {uid}, group {gid}: there is no such thing")
        groups = unpack_numbers(fields[5])
        if not all(0 <= group < 0xFFFFFFFF for group in groups) or not (adj == -32768 or -1000 <= adj <= 1000):
            raise ProtocolError("a start request's groups or OOM score are out of range")
        if not 0 <= pages <= 65536 or not 0 <= cgroups <= MAX_FDS or not all(unpack(fields[4])):
            raise ProtocolError("a start request's numbers are out of range")
        return cls(
            instance=instance,
            args=unpack(fields[2]),
            env=unpack(fields[3]),
            preopens=[Preopen(field[1:], field[:1] != b"\0") for field in unpack(fields[4])],
            function=fields[1],
            module_kind=kind,
            uid=uid,
            gid=gid,
            groups=list(groups),
            rlimits=[(limits[i], limits[i + 1], limits[i + 2]) for i in range(0, len(limits), 3)],
            oom_score_adj=None if adj == -32768 else adj,
            max_pages=pages,
            cgroups=cgroups,
            netns=bool(netns),
            terminal=bool(terminal),
            network=bool(network),
            seccomp=fields[7],
        )
