"""From an OCI spec to a WASI context: the module, the preopens, and the request that starts a worker.

``assemble`` opens everything a worker is given, so that the worker resolves no path.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice

from sandbox_api.errors import InvalidArgument
from workers.start_request import COMPONENT, FOLDER, MODULE, NATIVE, WASM, Descriptors, Preopen, StartRequest

from ..host import errors, linux
from ..host.closer import Closer, close_all
from . import mount_tree, running_folders
from .rootfs import MountPlan
from .spec import ProcessSpec

PAGE = 65536
"""Bytes of a WebAssembly page."""
_MAX_PAGES = 65536
_BESIDES = 1 << 20
_PER_PAGE_TABLE = 256
"""Bytes of a limit that a worker needs besides its linear memory: so many, and one in so many for page tables. Half of
both is enough for small modules (docs/kubernetes.md)."""
_PER_INTERPRETED_BYTE = 15
"""And so many for each byte of a module that is interpreted: what the engine makes of it."""
_MAX_TOP_FOLDERS = 64
_MAX_ENTRIES = 4096
_MAX_PATH_FOLDERS = 64
_USUAL = ("app", "bin", "etc", "home", "lib", "mnt", "opt", "run", "srv", "tmp", "usr", "var")


@dataclass(slots=True)
class WasiContext:
    """A worker's module and preopens, opened. ``close`` it once they are handed over."""

    module: int = -1
    kind: int = WASM
    """Kind of the module: as it came, or our own compiler's product."""
    preopens: list[Preopen] = field(default_factory=list)
    folders: list[int] = field(default_factory=list)
    """One descriptor for each preopen."""
    memory_limit: int = 0
    """Bytes that the container may take; 0 is no limit."""
    _guest: int = -1
    """The module as it came, while a product stands in its place."""

    def add(self, path: str, fd: int, readonly: bool) -> None:
        """A preopen more; the context owns the descriptor from now on."""
        self.preopens.append(Preopen(os.fsencode(path), readonly))
        self.folders.append(fd)

    def run_product(self, product: int, component: bool = False) -> None:
        """Take what the module was compiled into in place of it; the context owns the descriptor from now on."""
        self._guest, self.module, self.kind = self.module, product, COMPONENT if component else NATIVE

    def run_guest(self) -> None:
        """Take the module as it came after all."""
        os.close(self.module)
        self._guest, self.module, self.kind = -1, self._guest, WASM

    def max_pages(self) -> int:
        """The bound of the guest's linear memory; 0 is none."""
        interpreted = self.memory_limit > 0 and self.kind == WASM and self.module >= 0
        return max_pages(self.memory_limit, os.fstat(self.module).st_size if interpreted else 0)

    def close(self, closer: Closer | None = None) -> None:
        """Close every descriptor; those of mounts aside, where ``closer`` is given."""
        for fd in (self.module, self._guest):
            if fd >= 0:
                os.close(fd)
        self.module = self._guest = -1
        close_all(self.folders, closer)
        self.folders.clear()


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A worker's descriptors, network and limits."""

    descriptors: Descriptors = field(default_factory=Descriptors)
    """Streams, the entrances of control groups, and the network namespace that it joins."""
    network: bool = False
    """Its seccomp filter allows sockets."""
    terminal: bool = False
    seccomp: Sequence[bytes] = ()
    """Filters for this start alone, installed before the workers' own; an empty one is none."""


def module_and_function(argument: str) -> tuple[str, str]:
    """``module.wasm#func`` cut in two; without ``#func`` the function is ``_start``."""
    path, mark, function = argument.rpartition("#")
    return (path, function) if mark and path and function else (argument, "_start")


def max_pages(memory_limit: int, interpreted: int = 0) -> int:
    """A memory limit in bytes as a bound on linear memory; 0 is none.

    It is less than the limit by what a worker needs besides: so a guest that takes all it can get sees a grow fail, and
    is not killed by its control group. ``interpreted`` are the bytes of a module that is not compiled.
    """
    if memory_limit <= 0:
        return 0
    besides = min(_BESIDES + memory_limit // _PER_PAGE_TABLE, memory_limit // 4) + _PER_INTERPRETED_BYTE * interpreted
    return max(1, min((memory_limit - besides) // PAGE, _MAX_PAGES))


def request(instance: int, spec: ProcessSpec, context: WasiContext, placement: Placement) -> StartRequest:
    """Make the start request for this process; the placement's descriptors get the module and the preopens' folders."""
    module, function = module_and_function(spec.args[0])
    env = list(spec.env)
    if spec.cwd != "/" and not any(each.startswith("PWD=") for each in env):
        env.append(f"PWD={spec.cwd}")  # where Go's WASI port, among others, finds its working directory
    descriptors = placement.descriptors
    descriptors.put(MODULE, context.module)
    descriptors.add(FOLDER, *context.folders)
    return StartRequest(
        instance=instance,
        args=[os.fsencode(arg) for arg in (module, *spec.args[1:])],
        env=[os.fsencode(each) for each in env],
        preopens=context.preopens,
        descriptors=descriptors,
        function=os.fsencode(function),
        module_kind=context.kind,
        uid=spec.uid,
        gid=spec.gid,
        groups=list(spec.groups),
        rlimits=[(limit.resource, limit.soft, limit.hard) for limit in spec.rlimits],
        oom_score_adj=spec.oom_score_adj,
        max_pages=context.max_pages(),
        terminal=placement.terminal,
        network=placement.network,
        seccomp=placement.seccomp,
    )


def assemble(process: ProcessSpec, plan: MountPlan, beside: tuple[int, int] | None = None) -> WasiContext:
    """Open the module and every folder the guest gets. Raises ``InvalidArgument``; nothing stays open then.

    ``beside`` are pid and start time of the process whose mounts it shares, as far as that has them open.
    """
    context = WasiContext()
    try:
        for place in running_folders.places(plan, *beside) if beside else mount_tree.build(plan):
            context.add(place.path, place.fd, place.readonly)
        context.module = _open_module(context, process)
        if process.cwd != "/":
            _add_cwd(context, process.cwd)
    except OSError as error:
        context.close()
        raise errors.for_errno(error, InvalidArgument)(f"{error.filename or plan.root}: {error.strerror}") from None
    except BaseException:
        context.close()
        raise
    return context


def _holder(context: WasiContext, path: str) -> tuple[int, str, bool]:
    """The preopen that holds an absolute guest path: its folder, the path inside it, and if it is read-only."""
    best = 0
    for number, preopen in enumerate(context.preopens):
        prefix = os.fsdecode(preopen.path)
        if (path == prefix or path.startswith(prefix + "/")) and len(preopen.path) >= len(context.preopens[best].path):
            best = number
    prefix = os.fsdecode(context.preopens[best].path)
    return context.folders[best], path[len(prefix) :].lstrip("/") or ".", context.preopens[best].readonly


def foresee(process: ProcessSpec, plan: MountPlan) -> int:
    """Open the module that a start will most likely find, without making a mount. Raises ``InvalidArgument``."""
    return _first(_module_paths(process), lambda path: _foresee(path, process, plan))


def _foresee(path: str, process: ProcessSpec, plan: MountPlan) -> int:
    fitting = [bind for bind in plan.binds if path == bind.destination or path.startswith(bind.destination + "/")]
    nearest = max(fitting, key=lambda bind: len(bind.destination), default=None)
    source, prefix = (nearest.source, nearest.destination) if nearest else (plan.root, "")
    try:
        base = linux.open_resolved(source)
    except OSError as error:
        raise errors.for_errno(error, InvalidArgument)(f"module {path}: {error.strerror}") from None
    try:
        return _open_program(base, path[len(prefix) :].lstrip("/"), path, process)
    finally:
        os.close(base)


def _module_paths(process: ProcessSpec) -> list[str]:
    """Where the module may be, in order. A name without a slash is looked up in PATH, as programs are, then in cwd."""
    name, _ = module_and_function(process.args[0])
    folders = [process.cwd]
    if "/" not in name:
        path = next((each.removeprefix("PATH=") for each in process.env if each.startswith("PATH=")), "")
        folders = [*path.split(":")[:_MAX_PATH_FOLDERS], process.cwd] if path else folders
    joined = (posixpath.join(process.cwd, folder, name) for folder in folders)
    return list(dict.fromkeys("/" + posixpath.normpath(each).lstrip("/") for each in joined))


class _NoSuchModule(InvalidArgument):
    """There is nothing at this place."""


def _first(paths: list[str], find: Callable[[str], int]) -> int:
    """The first of these modules that is there. Raises ``InvalidArgument``, which names the last where none is."""
    for path in paths[:-1]:
        try:
            return find(path)
        except _NoSuchModule:
            pass
    return find(paths[-1])


def _open_module(context: WasiContext, process: ProcessSpec) -> int:
    def find(path: str) -> int:
        folder, inside, _ = _holder(context, path)
        return _open_program(folder, inside, path, process)

    return _first(_module_paths(process), find)


def _open_program(base: int, inside: str, path: str, process: ProcessSpec) -> int:
    """Open a module by its place below ``base``, or ``base`` itself; ``path`` is its name in the guest."""
    try:
        place = linux.open_in_root(base, inside, os.O_PATH) if inside else os.dup(base)
        try:
            status = os.fstat(place)
            if not stat.S_ISREG(status.st_mode):
                raise InvalidArgument(f"module {path} is not a regular file")
            fd = linux.open_regular(place)
        finally:
            os.close(place)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _NoSuchModule(f"module {path}: {error.strerror}") from None
    except OSError as error:
        raise errors.for_errno(error, InvalidArgument)(f"module {path}: {error.strerror}") from None
    # here, since a product that was compiled from it would be readable
    if not _may_read(status, process) and not has_access_list(fd):
        os.close(fd)
        raise InvalidArgument(f"the container's user may not read the module: {path}: Permission denied")
    return fd


def has_access_list(fd: int) -> bool:
    """Whether more than its mode decides who may read a file (acl(5)): then the worker, who is that user, finds out."""
    try:
        os.getxattr(fd, "system.posix_acl_access")
    except OSError:  # it has none, or its file system
        return False
    return True


def _may_read(status: os.stat_result, process: ProcessSpec) -> bool:
    """Whether a user without capabilities may read a file, by its mode (path_resolution(7))."""
    if status.st_uid == process.uid:
        return bool(status.st_mode & stat.S_IRUSR)
    if status.st_gid in (process.gid, *process.groups):
        return bool(status.st_mode & stat.S_IRGRP)
    return bool(status.st_mode & stat.S_IROTH)


def _add_cwd(context: WasiContext, cwd: str) -> None:
    """Let relative paths start at ``cwd``.

    WASI has no working directory. C libraries look a path, relative or absolute, up in the preopen with
    the longest fitting name, where "/" and "." are both the empty name, and which of them wins is chance.
    So "." takes the place of "/", and absolute paths are kept right by a preopen for each folder in the
    root. What is lost: a file that lies in the root itself is not found by its absolute path.
    """
    folder, inside, readonly = _holder(context, cwd)  # before the root's own folders: a link in it may lead to another
    root, root_readonly = context.folders[0], context.preopens[0].readonly
    try:
        start = linux.open_in_root(folder, inside, os.O_PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        if readonly:
            raise InvalidArgument(f"config.json: process.cwd {cwd}: no such folder in a read-only root") from None
        start = mount_tree.make_folders(folder, inside)
    taken = {preopen.path for preopen in context.preopens}
    context.preopens[0] = Preopen(b".", readonly)
    context.folders[0] = start
    try:
        for name in _top_folders(root, cwd):
            path = f"/{name}"
            if os.fsencode(path) in taken or ":" in path:
                continue
            try:
                fd = linux.open_in_root(root, name, os.O_PATH | os.O_DIRECTORY)
            except OSError as error:  # not a folder, or a link to nowhere
                if errors.lacking(error):
                    raise
                continue
            context.preopens.insert(1, Preopen(os.fsencode(path), root_readonly))
            context.folders.insert(1, fd)
    finally:
        os.close(root)


def _top_folders(root: int, cwd: str) -> list[str]:
    """Names in the root that may be folders: what is usual, the one with ``cwd``, and as many more as have room.

    A guest can make any number of entries: after ``_MAX_ENTRIES`` nothing more is looked at.
    """
    usual = list(dict.fromkeys([cwd.split("/")[1], *_USUAL]))
    listing = linux.open_in_root(root, ".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        with os.scandir(listing) as entries:
            found = {
                entry.name
                for entry in islice(entries, _MAX_ENTRIES)
                if entry.is_symlink() or entry.is_dir(follow_symlinks=False)
            }
    finally:
        os.close(listing)
    return [*usual, *sorted(found.difference(usual))[: _MAX_TOP_FOLDERS - len(usual)]]
