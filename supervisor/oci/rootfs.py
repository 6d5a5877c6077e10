"""Mounts of a container that have names, from Create to Delete: its engine's root file system, its tmpfs.

All else that a process of it sees is made at its start, of detached mounts (``mount_tree``).
"""

from __future__ import annotations

import errno
import os
import posixpath
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sandbox_api.errors import FailedPrecondition, InvalidArgument
from sandbox_api.interface import Mount

from ..host import errors, linux
from ..host.proc import has_mounts
from . import mount_options, pod_files
from .mount_tree import clone
from .spec import Bind, Spec, Tmpfs


@dataclass(frozen=True, slots=True)
class MountPlan:
    """The mounts a container needs. Recorded before the first is made, so that all can be undone."""

    root: str
    """The root file system's folder, without links: the bundle's, or where ``rootfs`` is mounted."""
    root_readonly: bool = False
    rootfs: tuple[Mount, ...] = ()
    """The engine's, mounted in ``folder``: on the bundle's root nothing is mounted."""
    binds: tuple[Bind, ...] = ()
    """All of them, the outermost first; their sources without links."""
    inner: tuple[str, ...] = ()
    """Destinations of those that are mounted into the root: files, and folders in which something is changed."""
    tmpfs: tuple[Tmpfs, ...] = ()
    """Private ones, each mounted in a folder named by its number."""
    folder: str = ""
    """The container's own folder below --dir: whatever is mounted by name is mounted in it."""
    masked: tuple[str, ...] = ()
    readonly: tuple[str, ...] = ()
    """Paths in the root that are to be empty, or not to be written; those that are not there are passed over."""
    home: str = ""
    """The sandboxer's folder for mounting (``mount_tree.prepare``)."""
    pod: str = ""
    """The folder of the pod's own files (``pod_files``); "" where it has none."""
    pod_files: tuple[str, ...] = ()
    """Names in /etc of those that the guest sees: its engine mounts nothing there."""

    @property
    def empty(self) -> bool:
        """Whether nothing is mounted by name."""
        return not (self.rootfs or self.tmpfs)

    def tmpfs_path(self, number: int) -> str:
        """The folder of the tmpfs with this number."""
        return f"{self.folder}/{number}"


def plan(spec: Spec, root: str, rootfs: Sequence[Mount], folder: str, home: str, pod: str = "") -> MountPlan:
    """Plan the mounts of a container whose root is the folder ``root``, or ``rootfs`` where that is given.

    ``folder`` is for its mounts, ``home`` the sandboxer's, and ``pod`` has the pod's files, or nothing. Raises
    ``InvalidArgument``, and ``ResourceExhausted``.
    """
    root = os.path.realpath(root)
    if root == "/":
        raise InvalidArgument("config.json: root.path is the host's root file system")
    if not os.path.isdir(root):
        raise InvalidArgument(f"config.json: root.path {root}: no such folder")
    if rootfs and rootfs[0].target.strip("/"):
        raise InvalidArgument(f"rootfs: the first mount has the target {rootfs[0].target!r}: it has to be the root")
    # Links are followed here, once: what the engine named is then what is mounted, whatever they lead to by then.
    binds = sorted((_resolved(bind) for bind in spec.binds), key=lambda bind: bind.destination.count("/"))
    folders = {bind.destination for bind in binds if os.path.isdir(bind.source)}
    files = [bind.destination for bind in binds if bind.destination not in folders]
    # What is to be changed inside another bind's folder would not be seen in it: then that folder is mounted as well.
    changed = sorted([*files, *spec.masked, *spec.readonly])
    inner = tuple(
        bind.destination for bind in binds if bind.destination not in folders or _holds(bind.destination, changed)
    )
    covered = {*spec.masked, *spec.readonly}
    return MountPlan(
        root=f"{folder}/rootfs" if rootfs else root,
        root_readonly=spec.root_readonly,
        rootfs=tuple(rootfs),
        binds=tuple(binds),
        inner=inner,
        tmpfs=tuple(replace(each, readonly=True) if each.destination in covered else each for each in spec.tmpfs),
        folder=folder,
        masked=spec.masked,
        readonly=spec.readonly,
        home=home,
        pod=pod,
        pod_files=tuple(name for name in pod_files.SHOWN if pod and not _is_mounted(spec, f"/etc/{name}")),
    )


def _is_mounted(spec: Spec, path: str) -> bool:
    """Whether the engine mounts something on a path of the guest's, or on a folder above it."""
    mounted = {bind.destination for bind in spec.binds} | {tmpfs.destination for tmpfs in spec.tmpfs}
    return path in mounted or posixpath.dirname(path) in mounted


def mount(todo: MountPlan) -> None:
    """Make the mounts that have names. On failure all that was made is undone; raises a ``SandboxerError``."""
    try:
        if todo.rootfs:
            os.makedirs(todo.root, mode=0o700)  # in a folder that we alone can change
        for each in todo.rootfs:
            _mount_rootfs(each, todo.root)
        for number, tmpfs in enumerate(todo.tmpfs):
            path = todo.tmpfs_path(number)
            os.makedirs(path, mode=0o700)
            flags = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
            linux.mount("tmpfs", path, "tmpfs", flags, tmpfs.data)
    except OSError as error:
        unmount(todo)
        raise errors.for_errno(error, FailedPrecondition)(
            f"mounting {error.filename or todo.root}: {error.strerror}"
        ) from None
    except BaseException:
        unmount(todo)
        raise


def unmount(done: MountPlan) -> None:
    """Take down what ``mount`` made, or the part of it that was made. Idempotent.

    May take as long as the kernel needs for what a guest left in it: not for the event loop.
    """
    places = [done.tmpfs_path(number) for number in range(len(done.tmpfs))]
    if done.rootfs:
        places.append(done.root)
    for place in places:
        _detach_all(place)
        _remove_folder(place)
    if places:
        _remove_folder(done.folder)


def _resolved(bind: Bind) -> Bind:
    where = f"config.json: mounts: {bind.destination}: source {bind.source!r}"
    try:
        source = os.path.realpath(bind.source)
        same = os.path.samestat(os.stat(bind.source), os.stat(source))
    except (OSError, ValueError):
        raise InvalidArgument(f"{where} does not exist") from None
    if not same:  # a link of /proc's leads elsewhere than its text says
        raise InvalidArgument(f"{where} leads through a link of /proc: name the place itself")
    if source != bind.source:
        bind = replace(bind, source=source)
    try:
        shallow = bind.readonly and bind.recursive and not bind.deep_attributes & linux.MOUNT_ATTR_RDONLY
        covers_mounts = shallow and has_mounts(source)
    except OSError as error:
        raise errors.for_errno(error, FailedPrecondition)(f"/proc/self/mountinfo: {error.strerror}") from None
    if covers_mounts:
        # "ro" is of the mount alone ("rro" of those below as well, config.md): so Landlock, which has no such
        # distinction, and WASI leave this one to the kernel.
        return replace(bind, readonly=False, attributes=bind.attributes | linux.MOUNT_ATTR_RDONLY)
    return bind


def _holds(folder: str, paths: Sequence[str]) -> bool:
    """Whether one of the sorted paths is the folder or lies in it."""
    for prefix in (folder, folder + "/"):
        at = bisect_left(paths, prefix)
        if at < len(paths) and (paths[at] == folder or paths[at].startswith(folder + "/")):
            return True
    return False


def _detach_all(path: str) -> None:
    """Detach every mount from a folder of ours."""
    while True:
        try:
            linux.detach(path)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):  # not a mount point (any more)
                return
            raise


def _remove_folder(path: str) -> None:
    try:
        os.rmdir(path)
    except OSError:  # not there, or not ours to remove
        pass


def _mount_rootfs(each: Mount, root: str) -> None:
    """Mount one of the engine's on the root's folder, or below it. Nothing of it is looked up twice."""
    if "loop" in each.options:
        raise InvalidArgument(f"rootfs: {each.source}: unsupported loop mount: mount it and pass a bind")
    target = _open_target(root, each.target)
    try:
        if each.type in ("bind", "rbind") or not {"bind", "rbind"}.isdisjoint(each.options):
            options = mount_options.of_bind([*each.options, each.type])
            source = os.open(each.source, os.O_PATH | os.O_CLOEXEC)
            try:
                mounted = clone(source, options)
            finally:
                os.close(source)
            try:
                linux.attach_mount(mounted, target)
            finally:
                os.close(mounted)
        else:
            flags, data = mount_options.of_filesystem(each.options)
            linux.mount(each.source, f"/proc/self/fd/{target}", each.type, flags, data)
    except OSError as error:
        raise errors.for_errno(error, FailedPrecondition)(
            f"rootfs: mounting {each.type} {each.source} on {root}: {os.strerror(error.errno or 0)}"
        ) from None
    finally:
        os.close(target)


def _open_target(root: str, path: str) -> int:
    base = linux.open_resolved(root, os.O_DIRECTORY)
    if not path.strip("/"):
        return base
    try:
        return linux.open_in_root(base, path, os.O_PATH | os.O_DIRECTORY)
    finally:
        os.close(base)
