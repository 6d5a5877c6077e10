"""The file system as one process of a container gets it: copies of mounts, made at its start, that no path leads to.

The mounts are detached (open_tree(2), OPEN_TREE_CLONE): the process's descriptors hold them, they are gone with it,
and nothing has to be undone. Each is private, ``nodev`` and ``nosuid``, and has no way up. Everything is done by
descriptor; names below a root are the guest's or its image's, and resolved once, as if it were the root.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandbox_api.errors import FailedPrecondition

from ..host import errors, linux
from . import pod_files
from .mount_options import SAFE, BindOptions
from .spec import Bind

if TYPE_CHECKING:
    from .rootfs import MountPlan

_MAX_LINKS = 40  # as many as the kernel follows (path_resolution(7))
_PLAIN = BindOptions()
_RDONLY = BindOptions(linux.MOUNT_ATTR_RDONLY)


@dataclass(frozen=True, slots=True)
class Place:
    """A folder that the process gets: its name there, and an ``O_PATH`` descriptor."""

    path: str
    fd: int
    readonly: bool


@dataclass(slots=True)
class _Tree:
    """A mount that others may be mounted into, and the name of its root in the guest."""

    path: str
    mount: int
    readonly: bool
    bench: str = ""
    """The folder that it is mounted on meanwhile, where the kernel wants it to be."""


def prepare(home: str) -> None:
    """Make what ``build`` needs below the folder ``home``, and undo what a supervisor did not live to finish."""
    os.makedirs(f"{home}/empty/folder", mode=0o755, exist_ok=True)
    os.close(os.open(f"{home}/empty/file", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o444))
    os.makedirs(f"{home}/bench", mode=0o700, exist_ok=True)
    for name in os.listdir(f"{home}/bench"):
        _clear_bench(f"{home}/bench/{name}")


def clone(place: int, options: BindOptions = _PLAIN) -> int:
    """A detached copy of the mount that ``place`` is in, with ``place`` as its root. Raises ``OSError``."""
    mount = linux.clone_mount(place, options.recursive)
    try:
        linux.set_mount(mount, SAFE | options.deep, recursive=True, propagation=linux.MS_PRIVATE)
        if options.attributes:
            times = options.attributes & linux.MOUNT_ATTR__ATIME
            linux.set_mount(mount, options.attributes, clear=linux.MOUNT_ATTR__ATIME if times else 0)
    except BaseException:
        os.close(mount)
        raise
    return mount


def build(plan: MountPlan) -> list[Place]:
    """The folders that a process gets: the root first, then binds, then tmpfs.

    Raises ``FailedPrecondition``, and leaves nothing open then.
    """
    trees: list[_Tree] = []
    places: list[Place] = []
    try:
        with _explained(plan.root, "/"):
            _add_tree(trees, "/", plan.root, plan.root_readonly)
        for number, tmpfs in enumerate(plan.tmpfs):
            with _explained("tmpfs", tmpfs.destination):
                _add_tree(trees, tmpfs.destination, plan.tmpfs_path(number), tmpfs.readonly)
        inner = set(plan.inner)
        for bind in plan.binds:
            if bind.destination in inner:
                with _explained(bind.source, bind.destination):
                    _mount_bind(_holder(trees, bind.destination), bind, plan.home)
        for name in plan.pod_files:
            with suppress(OSError):  # a root that takes none does without
                _mount_bind(trees[0], Bind(f"/etc/{name}", f"{plan.pod}/etc/{name}", readonly=True), plan.home)
        for paths, masked in ((plan.readonly, False), (plan.masked, True)):
            for path in paths:
                with _explained("a read-only or masked path", path):
                    _cover(_holder(trees, path), path, masked, plan.home)
        _show(trees, [tree.path for tree in trees[1:]], [bind for bind in plan.binds if bind.destination not in inner])
        for tree in trees:
            with _explained(tree.path, tree.path):
                _finish(tree)
        places.append(Place("/", os.dup(trees[0].mount), plan.root_readonly))
        for bind in plan.binds:
            with _explained(bind.source, bind.destination):
                _add_bind(places, trees, bind, bind.destination in inner)
        for tree in trees[1:]:
            places.append(Place(tree.path, os.dup(tree.mount), tree.readonly))
    except BaseException:
        for place in places:
            os.close(place.fd)
        raise
    finally:
        for tree in trees:
            if tree.bench:
                _clear_bench(tree.bench)
            os.close(tree.mount)
    return places


def build_resolver(plan: MountPlan) -> int:
    """The root of the C library's resolver: the pod's own files, with the engine's in their places where it has some.

    Raises ``FailedPrecondition``.
    """
    with _explained("the pod's files", "/etc"):
        trees: list[_Tree] = []
        try:
            _add_tree(trees, "/", plan.pod, readonly=True)
            for bind in plan.binds:
                if bind.destination in pod_files.RESOLVED_PATHS:
                    _mount_bind(trees[0], bind, plan.home)
            _finish(trees[0])
            linux.set_mount(trees[0].mount, linux.MOUNT_ATTR_NOEXEC, recursive=True)
            return os.dup(trees[0].mount)
        finally:
            for tree in trees:
                if tree.bench:
                    _clear_bench(tree.bench)
                os.close(tree.mount)


class _explained:
    """An ``OSError`` in here is about this mount."""

    __slots__ = ("_destination", "_source")

    def __init__(self, source: str, destination: str) -> None:
        self._source = source
        self._destination = destination

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            reason = os.strerror(error.errno or 0)
            raise errors.for_errno(error, FailedPrecondition)(
                f"mounting {self._source} on {self._destination}: {reason}"
            ) from None


def _add_tree(trees: list[_Tree], path: str, source: str, readonly: bool) -> None:
    fd = linux.open_resolved(source, os.O_DIRECTORY)
    try:
        trees.append(_Tree(path, clone(fd), readonly))
    finally:
        os.close(fd)


def _add_bind(places: list[Place], trees: list[_Tree], bind: Bind, inner: bool) -> None:
    """Add the folder of a bind; a file is none."""
    if inner:
        tree = _holder(trees, bind.destination)
        fd = linux.open_in_root(tree.mount, _inside(tree, bind.destination), os.O_PATH)
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            os.close(fd)
            return
    else:
        source = linux.open_resolved(bind.source, os.O_DIRECTORY)
        try:
            fd = clone(source, bind.options)
        finally:
            os.close(source)
    places.append(Place(bind.destination, fd, bind.readonly))


def _show(trees: list[_Tree], tmpfs: list[str], binds: list[Bind]) -> None:
    """Make the folders that are mounted on, where they are missing: a guest that lists their parent sees them.

    As runc does; but they are given to the guest by themselves, so that a root that takes no folder will do, too.
    """
    given = [*tmpfs, *(bind.destination for bind in binds)]
    for path in given:
        if any(path.startswith(other + "/") for other in given if other not in tmpfs):
            continue  # in a bind's folder: nothing is made there unasked
        tree = _holder([tree for tree in trees if tree.path != path], path)
        with suppress(OSError):
            os.close(make_folders(tree.mount, _inside(tree, path)))


def _holder(trees: list[_Tree], path: str) -> _Tree:
    """The tree that a path of the guest's lies in: the tmpfs with the longest fitting name, or the root."""
    fitting = [tree for tree in trees[1:] if path.startswith(tree.path + "/")]
    return max(fitting, key=lambda tree: len(tree.path), default=trees[0])


def _inside(tree: _Tree, path: str) -> str:
    return path.removeprefix(tree.path) if tree.path != "/" else path


def _mount_bind(tree: _Tree, bind: Bind, home: str) -> None:
    source = linux.open_resolved(bind.source)
    try:
        mounted = clone(source, bind.options)
        try:
            place = _make_target(tree.mount, _inside(tree, bind.destination), stat.S_ISDIR(os.fstat(source).st_mode))
            _attach(tree, mounted, place, home)
        finally:
            os.close(mounted)
    finally:
        os.close(source)


def _cover(tree: _Tree, path: str, masked: bool, home: str) -> None:
    """Make a path in the tree read-only; or, ``masked``, empty. Not there: passed over."""
    try:
        place = linux.open_in_root(tree.mount, _inside(tree, path), os.O_PATH)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return
        raise
    covering = place
    try:
        if masked:
            kind = "folder" if stat.S_ISDIR(os.fstat(place).st_mode) else "file"
            covering = os.open(f"{home}/empty/{kind}", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        elif not linux.mounts_on_detached():
            _put_on_bench(tree, home)  # only what is mounted somewhere can be copied
        mounted = clone(covering, _RDONLY)
    except BaseException:
        os.close(place)
        raise
    finally:
        if covering != place:
            os.close(covering)
    try:
        _attach(tree, mounted, place, home)
    finally:
        os.close(mounted)


def _attach(tree: _Tree, mounted: int, place: int, home: str) -> None:
    """Mount a copy on a place in the tree, whose descriptor is closed."""
    try:
        if not linux.mounts_on_detached():
            _put_on_bench(tree, home)
        linux.attach_mount(mounted, place)
    finally:
        os.close(place)


def _put_on_bench(tree: _Tree, home: str) -> None:
    """Mount the tree in a folder of ours: before Linux 6.15 nothing can be mounted on what is detached."""
    if tree.bench:
        return
    tree.bench = tempfile.mkdtemp(dir=f"{home}/bench")
    place = os.open(tree.bench, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        linux.attach_mount(tree.mount, place)
    finally:
        os.close(place)
    linux.set_mount(tree.mount, 0, recursive=True, propagation=linux.MS_PRIVATE)


def _finish(tree: _Tree) -> None:
    """Make the tree read-only where it is to be, and detach it again."""
    if tree.readonly:
        linux.set_mount(tree.mount, linux.MOUNT_ATTR_RDONLY)
    if tree.bench:
        whole = linux.clone_mount(tree.mount, recursive=True)
        os.close(tree.mount)
        tree.mount = whole


def _clear_bench(path: str) -> None:
    try:
        linux.detach(path)
    except OSError:  # nothing was mounted on it yet
        pass
    os.rmdir(path)


def _make_target(base: int, path: str, folder: bool) -> int:
    """The place to mount on, made where the image lacks it (as runc does)."""
    for _ in range(_MAX_LINKS):
        try:
            return linux.open_in_root(base, path, os.O_PATH)
        except FileNotFoundError:
            pass
        parent = make_folders(base, posixpath.dirname(path))
        try:
            name = posixpath.basename(path)
            if folder:
                os.mkdir(name, 0o755, dir_fd=parent)
                return linux.open_in_root(parent, name, os.O_PATH)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            return os.open(name, flags, 0o644, dir_fd=parent)
        except FileExistsError:  # a link to nowhere: what it leads to is made
            path = posixpath.join(posixpath.dirname(path), os.readlink(name, dir_fd=parent))
        finally:
            os.close(parent)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)


def make_folders(base: int, path: str) -> int:
    """Open the folder ``path`` below ``base``, making what is missing of it. Raises ``OSError``."""
    at = os.dup(base)
    walked = ""
    for part in path.strip("/").split("/"):
        if not part:
            continue
        walked += "/" + part
        try:
            # From the base each time: a link on the way is then resolved inside the root.
            following = linux.open_in_root(base, walked, os.O_PATH | os.O_DIRECTORY)
        except FileNotFoundError:
            try:
                os.mkdir(part, 0o755, dir_fd=at)
                following = linux.open_in_root(at, part, os.O_PATH | os.O_DIRECTORY)
            except OSError:
                os.close(at)
                raise
        except OSError:
            os.close(at)
            raise
        os.close(at)
        at = following
    return at
