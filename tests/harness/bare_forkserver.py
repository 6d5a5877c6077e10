"""A bare forkserver of a test's own, with real or broken-out guests in its workers, and no supervisor."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from supervisor.seccomp.allowed import worker_filters
from supervisor.seccomp.library import call_names
from workers import protocol
from workers.greeting import EXIT_NUMBERS, FORKSERVER, Filters, Hello, Welcome
from workers.start_request import (
    FOLDER,
    MODULE,
    NATIVE,
    REPORT,
    RESOLVER,
    STDERR,
    STDIN,
    STDOUT,
    WASM,
    WASMTIME,
    Descriptors,
    Preopen,
    StartRequest,
)

from . import interpreters
from .wasmtime_products import EMPTY, compiled

ROOT = Path(__file__).resolve().parent.parent.parent
WITHOUT_EMPTY_ROOT = (sys.executable, str(ROOT / "tests/harness/refusing.py"), "pivot_root")
"""Runs a command whose workers are refused an empty root."""
SIGSYS = 159
SECONDS = 20
"""How long the forkserver may take to say something."""
NUMBERS = {name: number for number, name in enumerate(call_names().decode().split("\n")) if name}
"""Numbers of system calls, by name."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcome of a try, or of a guest."""

    report: str
    """The worker's verdict, and why where it is not ready."""
    status: int
    """As a task's exit status: a signal is 128 and its number."""
    call: int
    """Number of the forbidden system call that ended it; -1 is none."""
    stdout: str
    stderr: str
    threads: bool = False
    """Whether its worker may have threads: then the kernel ends it for a forbidden call, and nothing names that."""


class BareForkserver:
    """A forkserver of the test's own, whose workers have the given filters."""

    module = b"\0asm\1\0\0\0"
    """Module of those who bring none."""
    fields: Mapping[str, object] = MappingProxyType({})
    """Fields of each request."""
    threads = False

    def __init__(
        self,
        filters: Filters | None = None,
        broken_out: bool = True,
        under: Sequence[str] = (),
        program: str = "workers.forkserver",
        path: Path = ROOT,
        image_memory: int = 0,
    ) -> None:
        """With ``broken_out`` tries run at the guest's place, and else real guests.

        ``under`` is a command that runs it, such as strace; ``program`` another forkserver, to be found on ``path``.
        """
        self._folder = tempfile.TemporaryDirectory()
        self.address = address = f"{self._folder.name}/s"
        program = "tests.harness.broken_out" if broken_out else program
        boot = f"sys.path.insert(1, {str(path)!r}); from {program} import main; main()"
        start = interpreters.command(boot, "x/s")
        start["args"] = [*under, *start["args"]]
        start["cwd"] = self._folder.name
        self._process = subprocess.Popen(**start, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        assert said == "ready\n", said
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(address)
        self._reader = protocol.Reader(self._socket)
        self._instance = 0
        self._module = Path(self._folder.name, "module")
        self._module.write_bytes(self.module)
        protocol.send(self._socket, protocol.HELLO, Hello(FORKSERVER, filters, image_memory).encode())
        self.no_empty_root = Welcome.decode(self._next(protocol.WELCOME).body).no_empty_root

    @property
    def status(self) -> int | None:
        """The forkserver's exit status, once it is closed."""
        return self._process.returncode

    @property
    def pid(self) -> int:
        """The forkserver's."""
        return self._process.pid

    def start(
        self,
        *args: str,
        folders: Sequence[tuple[Path, bool]] = (),
        stderr: int | None = None,
        stdin: int | None = None,
        stdout: int | None = None,
        module: Path | None = None,
        resolver: int = -1,
        **fields: object,
    ) -> Worker:
        """Start a worker. ``folders`` pairs each preopen (the first is ``/``) with whether it is read-only.

        ``resolver`` is the root of its C library's resolver.
        """
        self._instance += 1
        report, theirs = os.pipe()
        out, err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        chosen = module or self._module
        opened = [os.open(chosen, os.O_RDONLY), os.open("/dev/null", os.O_RDONLY) if stdin is None else os.dup(stdin)]
        opened += [
            os.dup(out.fileno() if stdout is None else stdout),
            os.dup(err.fileno() if stderr is None else stderr),
        ]
        opened += [os.open(path, os.O_PATH | os.O_DIRECTORY) for path, _ in folders]
        names = ["/", *(f"/{path.name}" for path, _ in folders[1:])]
        preopens = [Preopen(os.fsencode(name), readonly) for name, (_, readonly) in zip(names, folders, strict=False)]
        fields = {**self.fields, **fields}
        fields.setdefault("module_kind", NATIVE if chosen.suffix == ".so" else WASM)
        descriptors = Descriptors()
        for role, fd in zip((REPORT, MODULE, STDIN, STDOUT, STDERR), (theirs, *opened), strict=False):
            descriptors.put(role, fd)
        descriptors.add(FOLDER, *opened[4:])
        if resolver >= 0:
            descriptors.put(RESOLVER, resolver)
        request = StartRequest(
            instance=self._instance,
            args=[os.fsencode(arg) for arg in args],
            preopens=preopens,
            descriptors=descriptors,
            **fields,  # type: ignore[arg-type]
        )
        protocol.send(self._socket, protocol.START, request.encode(), descriptors.fds)
        for fd in (theirs, *opened):
            os.close(fd)
        _, pid, _, imaged = protocol.unpack_numbers(self._next(protocol.FORKED).body)
        with os.fdopen(report, "rb") as stream:
            said, _, verdict = protocol.unpack_report(stream.read())
        assert said == pid
        return Worker(self, pid, verdict.decode(), out, err, bool(imaged))

    def run(self, *args: str, **more: object) -> Outcome:
        """Start a worker and wait for its end."""
        return self.start(*args, **more).wait()  # type: ignore[arg-type]

    def ended(self) -> tuple[int, int]:
        """Wait status and forbidden call of the next worker that ends."""
        ((instance, _, status, _, call), *_) = protocol.unpack_rows(self._next(protocol.EXITED).body, EXIT_NUMBERS)
        protocol.send(self._socket, protocol.ACK, protocol.pack_numbers(instance))
        return status, call

    def said(self) -> str:
        """The next line that the forkserver says on its standard error."""
        assert self._process.stderr is not None
        readable, _, _ = select.select([self._process.stderr], [], [], SECONDS)
        assert readable, "the forkserver says nothing"
        return self._process.stderr.readline()

    def close(self) -> None:
        """End the forkserver, and what runs."""
        with socket.socket(socket.AF_UNIX) as sock:  # another may have taken our place
            sock.connect(self.address)
            protocol.send(sock, protocol.HELLO, Hello(FORKSERVER).encode())
            protocol.send(sock, protocol.END, b"")
            self._process.communicate()
        self._reader.close()
        self._folder.cleanup()

    def _next(self, kind: int) -> protocol.Frame:
        while True:
            for frame in self._reader.frames():
                if frame.kind == kind:
                    return frame
            assert self._reader.receive(), "the forkserver is gone"


@dataclass(slots=True)
class Worker:
    """A started worker; one at a time may be waited for."""

    forkserver: BareForkserver
    pid: int
    report: str
    out: tempfile._TemporaryFileWrapper[bytes]
    err: tempfile._TemporaryFileWrapper[bytes]
    imaged: bool

    def wait(self) -> Outcome:
        """Wait for its end."""
        status, call = self.forkserver.ended()
        texts = []
        for file in (self.out, self.err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
            file.close()
        code = os.waitstatus_to_exitcode(status)
        return Outcome(self.report, 128 - code if code < 0 else code, call, *texts, self.forkserver.threads)


class WasmtimeForkserver(BareForkserver):
    """One whose workers have broken out of Wasmtime, behind both walls."""

    module = compiled(EMPTY)
    fields = MappingProxyType({"engine": WASMTIME, "module_kind": NATIVE})
    threads = True

    def __init__(self) -> None:
        super().__init__(worker_filters(), broken_out=False, program="tests.harness.broken_out_of_wasmtime")


def confined(broken_out: bool = True, under: Sequence[str] = (), image_memory: int = 0) -> BareForkserver:
    """A forkserver whose workers have both walls."""
    return BareForkserver(worker_filters(), broken_out, under, image_memory=image_memory)


def refused(outcome: Outcome) -> str:
    """Return what a try said that the process survived: the errno's name, or ``done``."""
    assert (outcome.report, outcome.status, outcome.call) == ("R", 0, -1), outcome
    return outcome.stdout.strip()


def forbidden(outcome: Outcome, name: str) -> None:
    """The try ended the process, and one line says which call did: of a worker with threads perhaps none does."""
    number = NUMBERS[name]
    line = f"wasm-sandboxer: forbidden system call {name} ({number})\n"
    assert (outcome.status, outcome.stdout) == (SIGSYS, ""), outcome
    if outcome.threads:
        assert outcome.stderr in ("", line)
    else:
        assert (outcome.stderr, outcome.call) == (line, number)


@contextmanager
def neighbour(forkserver: BareForkserver) -> Iterator[Worker]:
    """A worker of the same user that waits."""
    read, write = os.pipe()
    worker = forkserver.start("wait", stdin=read)
    os.close(read)
    yield worker
    os.close(write)
