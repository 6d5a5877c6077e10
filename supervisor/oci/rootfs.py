"""A container's root file system: what is mounted to make it, and taken down with it.

Everything below the root is the guest's or its image's, so its paths are resolved as if it were the root
(openat2(2), RESOLVE_IN_ROOT), and mounts are made on descriptors, never on names.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sandbox_api.errors import FailedPrecondition, InvalidArgument
from sandbox_api.interface import Mount

from ..host import linux
from ..host.errors import for_errno
from .spec import Bind, Spec, Tmpfs

_FLAGS = {
    "ro": linux.MS_RDONLY,
    "nosuid": linux.MS_NOSUID,
    "nodev": linux.MS_NODEV,
    "noexec": linux.MS_NOEXEC,
    "bind": linux.MS_BIND,
    "rbind": linux.MS_BIND | linux.MS_REC,
}
_MAX_LINKS = 40  # as many as the kernel follows (path_resolution(7))
_SAYS_NOTHING = frozenset(
    {"rw", "suid", "dev", "exec", "private", "rprivate", "slave", "rslave", "shared", "rshared", "defaults"}
)


@dataclass(frozen=True, slots=True)
class MountPlan:
    """The mounts a container needs, in order. Recorded before the first is made, so that all can be undone."""

    root: str
    """The root file system's folder."""
    rootfs: tuple[Mount, ...] = ()
    binds: tuple[Bind, ...] = ()
    """Binds that a preopen cannot be: of files, and of folders that hold such a file."""
    tmpfs: tuple[Tmpfs, ...] = ()
    tmpfs_folder: str = ""
    """Where the private tmpfs are mounted, each in a folder named by its number."""
    masked: tuple[str, ...] = ()
    readonly: tuple[str, ...] = ()
    """Paths in the root that are to be empty, or not to be written; those that are not there are passed over."""
    mount_id: int = 0
    """Of the mount that the root's folder is in before anything is mounted on it: that one is the client's.

    0 where nothing is.
    """

    @property
    def touches_root(self) -> bool:
        """Whether something is mounted on the root or below it."""
        return bool(self.rootfs or self.binds or self.masked or self.readonly)

    @property
    def empty(self) -> bool:
        """Whether nothing is mounted anywhere."""
        return not (self.touches_root or self.tmpfs)

    def tmpfs_path(self, number: int) -> str:
        """The folder of the tmpfs with this number."""
        return f"{self.tmpfs_folder}/{number}"


def plan(spec: Spec, root: str, rootfs: Sequence[Mount], folder: str) -> MountPlan:
    """What must be mounted for this container, whose root is the folder ``root``.

    Raises ``InvalidArgument`` where that cannot be.
    """
    if root == "/":
        raise InvalidArgument("config.json: root.path is the host's root file system")
    if not os.path.isdir(root):
        raise InvalidArgument(f"config.json: root.path {root}: no such folder")
    for bind in spec.binds:
        if not os.path.exists(bind.source):
            raise InvalidArgument(f"config.json: mounts: {bind.destination}: source {bind.source!r} does not exist")
    files = [bind for bind in spec.binds if not os.path.isdir(bind.source)]
    # What is to be changed inside another bind's folder would not be seen in it: then that folder is mounted as well.
    changed = [*(file.destination for file in files), *spec.masked, *spec.readonly]
    holders = [
        bind
        for bind in spec.binds
        if os.path.isdir(bind.source) and any(_within(path, bind.destination) for path in changed)
    ]
    binds = sorted(files + holders, key=lambda bind: bind.destination.count("/"))
    masked, readonly = spec.masked, spec.readonly
    if not rootfs:  # what there is in the root can be seen now: most of what engines list is in /proc and /sys
        masked, readonly = (
            tuple(
                path
                for path in paths
                if _exists(root, path) or any(_within(path, each.destination) for each in holders)
            )
            for paths in (masked, readonly)
        )
    made = MountPlan(root, tuple(rootfs), tuple(binds), spec.tmpfs, folder if spec.tmpfs else "", masked, readonly)
    return replace(made, mount_id=_mount_id(root)) if made.touches_root else made


def mount(todo: MountPlan) -> None:
    """Make the planned mounts. On failure all that was made is undone; raises a ``SandboxerError``."""
    try:
        for each in todo.rootfs:
            _mount_rootfs(each, todo.root)
        if todo.touches_root and not todo.rootfs:
            # Onto itself, so that one unmount takes all below with it.
            linux.mount(todo.root, todo.root, "", linux.MS_BIND | linux.MS_REC)
        if todo.touches_root:
            linux.mount("", todo.root, "", linux.MS_PRIVATE | linux.MS_REC)
        for number, tmpfs in enumerate(todo.tmpfs):
            path = todo.tmpfs_path(number)
            os.makedirs(path, mode=0o700)
            linux.mount("tmpfs", path, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC, tmpfs.data)
        for bind in todo.binds:
            _mount_bind(*_place(todo, bind.destination), bind)
        for path in todo.readonly:
            _cover(todo.root, path, masked=False)
        for path in todo.masked:
            _cover(todo.root, path, masked=True)
    except OSError as error:
        unmount(todo)
        raise for_errno(error, FailedPrecondition)(
            f"mounting {error.filename or todo.root}: {error.strerror}"
        ) from None
    except BaseException:
        unmount(todo)
        raise


def unmount(done: MountPlan) -> None:
    """Take down what ``mount`` made, or the part of it that was made. Idempotent."""
    for number in range(len(done.tmpfs)):
        _detach_all(done.tmpfs_path(number), 1)
        _remove_folder(done.tmpfs_path(number))
    if done.tmpfs:
        _remove_folder(done.tmpfs_folder)
    if done.touches_root:
        _detach_all(done.root, max(len(done.rootfs), 1), done.mount_id)


def _place(plan: MountPlan, destination: str) -> tuple[str, str]:
    """Where in the host something is mounted for a place in the guest: a folder, and the path below it."""
    for number, tmpfs in enumerate(plan.tmpfs):
        if _within(destination, tmpfs.destination):
            return plan.tmpfs_path(number), destination.removeprefix(tmpfs.destination)
    return plan.root, destination


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + "/")


def _mount_id(path: str) -> int:
    """The mount that a folder is in (proc_pid_fdinfo(5)); 0 where there is no such folder."""
    try:
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        with open(f"/proc/self/fdinfo/{fd}") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("mnt_id:"))
    finally:
        os.close(fd)


def _detach_all(path: str, count: int, below: int = 0) -> None:
    """Detach as many mounts from a folder, but none that was there before: the one with the id ``below``."""
    for _ in range(count):
        if below and _mount_id(path) == below:
            return
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
    flags, data = 0, []
    for option in each.options:
        if option in _FLAGS:
            flags |= _FLAGS[option]
        elif option == "loop":
            raise InvalidArgument(f"rootfs: {each.source}: loop mounts are not served: mount it and pass a bind")
        elif option not in _SAYS_NOTHING:
            data.append(option)
    if each.type in ("bind", "rbind"):
        flags |= _FLAGS[each.type]
    target = root
    if each.target.strip("/"):
        fd = _open_folder(root, each.target)
        target = f"/proc/self/fd/{fd}"
    else:
        fd = -1
    try:
        linux.mount(each.source, target, each.type, flags, ",".join(data))
        if flags & linux.MS_BIND and flags & linux.MS_RDONLY:
            linux.mount("", target, "", linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY)
    except OSError as error:
        raise FailedPrecondition(
            f"rootfs: mounting {each.type} {each.source} on {root}: {os.strerror(error.errno or 0)}"
        ) from None
    finally:
        if fd >= 0:
            os.close(fd)


def _open_folder(root: str, path: str) -> int:
    base = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return linux.open_in_root(base, path, os.O_PATH | os.O_DIRECTORY)
    finally:
        os.close(base)


def _mount_bind(root: str, inside: str, bind: Bind) -> None:
    """Mount a bind on the path ``inside`` the folder ``root``."""
    base = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        target = _target(base, inside, os.path.isdir(bind.source))
        try:
            linux.mount(bind.source, f"/proc/self/fd/{target}", "", linux.MS_BIND | linux.MS_REC)
        finally:
            os.close(target)
        # Opened anew, this is the mount and no longer what it covers.
        mounted = linux.open_in_root(base, inside, os.O_PATH)
        try:
            place = f"/proc/self/fd/{mounted}"
            linux.mount("", place, "", linux.MS_PRIVATE | linux.MS_REC)
            if bind.readonly:
                linux.mount("", place, "", linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY)
        finally:
            os.close(mounted)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise for_errno(error, FailedPrecondition)(f"mounting {bind.source} on {bind.destination}: {reason}") from None
    finally:
        os.close(base)


def _exists(root: str, path: str) -> bool:
    base = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(linux.open_in_root(base, path, os.O_PATH))
    except OSError:
        return False
    finally:
        os.close(base)
    return True


def _cover(root: str, path: str, masked: bool) -> None:
    """Make a path of the root read-only; or, ``masked``, empty: /dev/null over a file, as runc does, or nothing
    over a folder. Not there: passed over."""
    if not _exists(root, path):
        return
    base = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    place = linux.open_in_root(base, path, os.O_PATH)
    try:
        target = f"/proc/self/fd/{place}"
        if not masked:
            linux.mount(target, target, "", linux.MS_BIND | linux.MS_REC)
        elif stat.S_ISDIR(os.fstat(place).st_mode):
            linux.mount("tmpfs", target, "tmpfs", linux.MS_RDONLY, "size=0k")
            return
        else:
            linux.mount("/dev/null", target, "", linux.MS_BIND)
        mounted = linux.open_in_root(base, path, os.O_PATH)
        try:
            flags = linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY
            linux.mount("", f"/proc/self/fd/{mounted}", "", flags)
        finally:
            os.close(mounted)
    finally:
        os.close(place)
        os.close(base)


def _target(base: int, path: str, folder: bool) -> int:
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
