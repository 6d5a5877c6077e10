"""The files: what the compiler made, by the module's digest, and what it failed at.

One folder for each engine, build options and processor, since machine code is good for no other. In it
``<digest>.<level>.so`` is a product, and ``<digest>.<level>.failed`` says why there is none. A product ends in
a footer of ours that names its module and holds the checksum of all before it; the dynamic linker does not mind.
The whole is read once, when a file is first met; after that its identity is compared.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import stat
import struct
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from .terms import BEST_FIRST, Failure, Level, Limits, Verdict

log = logging.getLogger(__name__)

K = TypeVar("K")
V = TypeVar("V")

STARTS, COMPONENT = 1, 2
"""Flags of a product, by their numbers in ``workers.compile_protocol``."""
FORMAT = 3
"""Version of the files, and of the options the compiler is given. Another number is another cache."""
TOUCH_SECONDS = 600
"""Seconds of precision with which a file's last use is noted."""
REMEMBERED = 8192
"""Most entries of a map in memory."""

_MAGIC = b"wasm-sandboxer\0\1"
_FOOTER = struct.Struct("<16s32s32sII")  # magic, key, digest, level, flags; then a checksum of all so far
_CHECKSUM = 32
_PART_SECONDS = 3600
_LITTLE = 4096  # what the least file takes
_CHUNK = 1 << 20
# /proc/cpuinfo: what the compiler goes by, on x86 and Arm
_CPU = ("vendor_id", "cpu family", "model", "flags", "CPU implementer", "CPU part", "CPU variant", "Features", "isa")


class CacheUnusable(Exception):
    """The cache's folder cannot be trusted or written; the text says why and what to do."""


class Unverified(Exception):
    """The product is there and has to be read before it may be used."""


def remember(where: OrderedDict[K, V], key: K, value: V) -> None:
    """Put into a map of bounded size; the oldest entry goes."""
    where.pop(key, None)
    where[key] = value
    if len(where) > REMEMBERED:
        where.popitem(last=False)


class Cache:
    """The products on disk. Methods that read or write whole files say so: they are for a thread."""

    def __init__(self, folder: Path, size: int, version: str, engine: str = "wasmedge") -> None:
        """Make or open it. Raises ``CacheUnusable``."""
        self._root = folder
        self._size = size
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_folder(folder)
            self.workshop = folder / "workshop"
            """An empty folder for compilers to mount on."""
            self.workshop.mkdir(mode=0o700, exist_ok=True)
            key = _key(f"{engine} {version}")
            mine = folder / f"{engine}-{version}-{key.hex()[:16]}"
            mine.mkdir(mode=0o700, exist_ok=True)
            self._fd = os.open(mine, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise CacheUnusable(_unusable(folder, error.strerror or str(error))) from None
        self._key = key
        self._verified: OrderedDict[tuple[str, Level], tuple[int, ...]] = OrderedDict()
        self._failures: OrderedDict[tuple[str, Level], Failure | None] = OrderedDict()
        self._used: OrderedDict[str, float] = OrderedDict()
        """When a product was last used, by its name."""
        self._touched: OrderedDict[str, float] = OrderedDict()

    def close(self) -> None:
        """Close the folder."""
        os.close(self._fd)

    @property
    def folder(self) -> Path:
        """The folder of this engine's files."""
        return Path(os.readlink(f"/proc/self/fd/{self._fd}"))

    def open(self, digest: str, level: Level) -> int | None:
        """A descriptor of a product that was read before and is unchanged; None where there is none.

        Raises ``Unverified`` where there is one that ``verify`` has to see first.
        """
        fd = self._open(digest, level)
        if fd is None:
            return None
        status = os.fstat(fd)
        if self._verified.get((digest, level)) != _identity(status):
            os.close(fd)
            raise Unverified
        self._use(fd, digest, level, status)
        return fd

    def verify(self, digest: str, level: Level) -> int | None:
        """Open it as ``open`` does, after reading all of the file. A damaged file is removed."""
        fd = self._open(digest, level)
        if fd is None:
            return None
        try:
            status = os.fstat(fd)
            wrong = self._what_is_wrong(fd, status, digest, level)
            if not wrong:
                remember(self._verified, (digest, level), _identity(status))
                self._use(fd, digest, level, status)
                return fd
        except (OSError, ValueError) as error:
            wrong = str(error)
        log.warning("%s: removed: %s", _name(digest, level), wrong)
        os.close(fd)
        self._unlink(_name(digest, level))
        return None

    def has(self, digest: str, level: Level) -> bool:
        """Whether there is a product; it may still turn out unfit."""
        try:
            os.stat(_name(digest, level), dir_fd=self._fd, follow_symlinks=False)
        except OSError:
            return False
        return True

    def install(self, digest: str, level: Level, product: int, flags: int = 0) -> int:
        """Copy what a compiler made into the cache, all at once, and make room for it; its size in bytes.

        ``flags`` are STARTS and COMPONENT, as they are true of it. For a thread. Raises ``ValueError`` where it cannot
        be a product, and ``OSError``.
        """
        name = _name(digest, level)
        part = f"{name}.{os.getpid()}.{time.monotonic_ns()}.part"
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self._fd)
        try:
            size = self._write(fd, product, digest, level, flags)
            os.fchmod(fd, 0o444)
            os.rename(part, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
            remember(self._verified, (digest, level), _identity(os.fstat(fd)))
        except BaseException:
            self._unlink(part)
            raise
        finally:
            os.close(fd)
        remember(self._used, name, time.time())
        for worse in BEST_FIRST[BEST_FIRST.index(level) + 1 :]:
            self._unlink(_name(digest, worse))
        self._make_room()
        return size

    def failure(self, digest: str, level: Level, limits: Limits) -> Failure | None:
        """The failure on record, unless it was for a limit that has been raised since."""
        try:
            failure = self._failures[digest, level]
        except KeyError:
            failure = self._read_failure(digest, level)
            remember(self._failures, (digest, level), failure)
        return failure if failure and failure.counts(limits) else None

    def fail(self, digest: str, level: Level, failure: Failure) -> None:
        """Remember a failure, on disk where the module is to blame. A product that there was goes."""
        remember(self._failures, (digest, level), failure)
        if failure.verdict is Verdict.UNABLE:
            return
        self._unlink(_name(digest, level))
        name = _name(digest, level, "failed")
        part = f"{name}.{os.getpid()}.part"
        limits = failure.limits
        record = {
            "verdict": failure.verdict,
            "text": failure.text,
            "seconds": limits.seconds,
            "memory": limits.memory,
        }
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with open(os.open(part, flags, 0o600, dir_fd=self._fd), "w") as file:
                json.dump(record, file)
            os.rename(part, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except OSError as error:
            log.warning("%s: not on record: %s", name, error)

    def remove(self, digest: str, level: Level) -> None:
        """Remove a product, if there is one."""
        self._unlink(_name(digest, level))

    def _open(self, digest: str, level: Level) -> int | None:
        # Non-blocking: a FIFO there holds nothing up.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        name = _name(digest, level)
        try:
            return os.open(name, flags, dir_fd=self._fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("%s: removed: %s", name, error.strerror)
            self._unlink(name)
            return None

    def _what_is_wrong(self, fd: int, status: os.stat_result, digest: str, level: Level) -> str:
        if not stat.S_ISREG(status.st_mode):
            return "it is no regular file"
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            return f"owner {status.st_uid} and mode {stat.S_IMODE(status.st_mode):o} let others write it"
        end = status.st_size - _FOOTER.size - _CHECKSUM
        if end <= 0:
            return "it is too short"
        footer = os.pread(fd, _FOOTER.size + _CHECKSUM, end)
        if footer[: _FOOTER.size] != self._footer(digest, level, _flags(footer)):
            return "it is not of this module, engine and processor, or it is cut"
        checksum = hashlib.sha256()
        for chunk in _chunks(fd, end + _FOOTER.size):
            checksum.update(chunk)
        return "" if footer[_FOOTER.size :] == checksum.digest() else "its checksum is wrong"

    def _footer(self, digest: str, level: Level, flags: int) -> bytes:
        return _FOOTER.pack(_MAGIC, self._key, bytes.fromhex(digest), level, flags)

    def _write(self, fd: int, product: int, digest: str, level: Level, flags: int) -> int:
        status = os.fstat(product)
        if not stat.S_ISREG(status.st_mode) or os.pread(product, 4, 0) != b"\x7fELF":
            raise ValueError("the compiler's output is not a shared object")
        if status.st_size > self._size:
            raise ValueError(f"its {status.st_size} bytes do not fit into the cache")
        checksum = hashlib.sha256()
        for chunk in itertools.chain(_chunks(product, status.st_size), [self._footer(digest, level, flags)]):
            checksum.update(chunk)
            _write_all(fd, chunk)
        _write_all(fd, checksum.digest())
        return status.st_size

    def _use(self, fd: int, digest: str, level: Level, status: os.stat_result) -> None:
        name = _name(digest, level)
        now = time.time()
        remember(self._used, name, now)
        if now - self._touched.get(name, 0) < TOUCH_SECONDS:
            return
        remember(self._touched, name, now)
        try:
            os.utime(fd, ns=(int(now * 1e9), status.st_mtime_ns))
            remember(self._verified, (digest, level), _identity(os.fstat(fd)))
        except OSError:  # a cache that can only be read is one all the same
            pass

    def _read_failure(self, digest: str, level: Level) -> Failure | None:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            with open(os.open(_name(digest, level, "failed"), flags, dir_fd=self._fd), "rb") as file:
                values = json.loads(file.read(_LITTLE * 4))
            limits = Limits(float(values["seconds"]), int(values["memory"]))
            return Failure(Verdict(values["verdict"]), str(values["text"]), limits)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _unlink(self, name: str) -> None:
        try:
            os.unlink(name, dir_fd=self._fd)
        except OSError:
            pass

    def _make_room(self) -> None:
        """Remove what was not used for longest, of any engine, until the rest fits."""
        files = []
        total = 0
        now = time.time()
        for entry in _files(self._root):
            try:
                status = entry.stat(follow_symlinks=False)
                if entry.name.endswith(".part"):
                    if now - status.st_mtime > _PART_SECONDS:  # of a process that was killed
                        os.unlink(entry.path)
                    continue
            except OSError:
                continue
            size = max(status.st_size, _LITTLE)
            total += size
            files.append((max(status.st_atime, self._used.get(entry.name, 0)), size, entry.path))
        files.sort()
        for _, size, path in files:
            if total <= self._size:
                return
            try:
                os.unlink(path)
                log.info("removed %s: the cache is full", path)
            except OSError:
                pass
            total -= size


def flags(product: int) -> tuple[bool, bool]:
    """Whether an opened product's module has a start section, and whether it is a component. Raises ``OSError``."""
    found = _flags(os.pread(product, _FOOTER.size, os.fstat(product).st_size - _FOOTER.size - _CHECKSUM))
    return bool(found & STARTS), bool(found & COMPONENT)


def _flags(footer: bytes) -> int:
    found: int = _FOOTER.unpack_from(footer)[-1]
    return found


def _check_folder(folder: Path) -> None:
    status = folder.stat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise CacheUnusable(_unusable(folder, "others than its owner, who must be us, may write in it"))
    if os.statvfs(folder).f_flag & os.ST_NOEXEC:
        raise CacheUnusable(_unusable(folder, "its file system is mounted noexec"))


def _unusable(folder: Path, why: str) -> str:
    return f"cache {folder}: {why}: choose another --cache-dir, or --aot never"


def _key(engine: str) -> bytes:
    """The inputs of machine code besides the module and the level."""
    cpu = []
    with open("/proc/cpuinfo") as file:
        for line in file:
            name, _, value = line.partition(":")
            if not value:  # the end of the first processor's part
                break
            if name.strip() in _CPU:
                cpu.append(f"{name.strip()}={' '.join(sorted(value.split()))}")
    text = json.dumps([FORMAT, engine, os.uname().machine, cpu])
    return hashlib.sha256(text.encode()).digest()


def _name(digest: str, level: Level, kind: str = "so") -> str:
    return f"{digest}.{level.name}.{kind}"


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _files(root: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(root) as folders:
        for folder in folders:
            if folder.is_dir(follow_symlinks=False):
                with os.scandir(folder.path) as entries:
                    yield from entries


def _chunks(fd: int, size: int) -> Iterator[bytes]:
    at = 0
    while at < size:
        chunk = os.pread(fd, min(_CHUNK, size - at), at)
        if not chunk:
            raise ValueError(f"it ends after {at} of {size} bytes")
        yield chunk
        at += len(chunk)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
