"""The programs in an image archive, as ``docker save``, ``podman save``, ``ctr export`` and ``pack`` write them.

Everything in it is a stranger's: nothing is unpacked onto a path, links are followed inside the image only, and
what is read into memory is of bounded size.
"""

from __future__ import annotations

import gzip
import lzma
import posixpath
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sandbox_api import strict_json

from ..oci.wasi import module_and_function

MAX_DOCUMENT = 8 << 20
MAX_MODULE = 256 << 20
_MAX_ENTRIES = 1 << 20
_MAX_NAME = 4096  # PATH_MAX
_NO_ID = 0xFFFFFFFF  # chown(2)
_MAX_LAYERS = 512  # overlayfs mounts no more (fs/overlayfs/params.c)
_MAX_BLOBS = 1 << 16  # files of the archive itself
_MAX_HEADER = 1 << 20  # bytes of a name or of settings that precede an entry (pax)
_MAX_DEPTH = 8  # of indexes in indexes
_MAX_LINKS = 40  # as in the kernel (path_resolution(7))
_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"  # OCI image-spec, layer.md
_GNU_NAMES = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_MAX_SIZE = 1 << 53
_ZSTD = b"\x28\xb5\x2f\xfd"


class ArchiveUnfit(Exception):
    """The archive cannot be used; the text says what in it and why."""


class _Entry(tarfile.TarInfo):
    """An entry whose numbers are possible: by a negative size tarfile goes back and reads for ever (CVE-2025-8194).

    A tarfile that was mended takes such an entry for the archive's end, so that what follows would be missing.
    """

    def _proc_member(self, archive: tarfile.TarFile) -> _Entry:
        """This entry, or the one that its settings are for. Raises ``TarError``.

        It is tarfile's own place for this ("can be overridden in a subclass"): every version calls it for each header,
        before it goes by it. Of ``frombuf`` and ``fromtarfile`` newer ones have twins that they call instead (Debian
        12's 3.11.2-6+deb12u8).
        """
        if self.type in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, *_GNU_NAMES):
            self._check(_MAX_HEADER)  # read into memory
        self._check(_MAX_SIZE)
        try:
            entry: _Entry = super()._proc_member(archive)  # type: ignore[misc]
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from None
        entry._check(_MAX_SIZE)
        return entry

    def _check(self, most: int) -> None:
        if not 0 <= self.size <= most:
            raise tarfile.ReadError(f"an entry of {self.size} bytes")


@dataclass(frozen=True, slots=True)
class Program:
    """An image's module: its path in the image, and a copy of its bytes."""

    name: str
    file: IO[bytes]


@dataclass(frozen=True, slots=True)
class Image:
    """An image in an archive."""

    config: dict[str, Any]
    layers: list[str]
    """Names in the archive, the lowest first."""


def programs(path: Path) -> Iterator[Program]:
    """The program of each image in the archive. Raises ``ArchiveUnfit`` and ``OSError``."""
    with reading(path) as archive:
        found = list(images(archive))
        if not found:
            raise ArchiveUnfit("there is no image in it")
        for image in found:
            yield _program(archive, image)


@contextmanager
def reading(path: Path) -> Iterator[tarfile.TarFile]:
    """An archive to read from. What is wrong with it in here is ``ArchiveUnfit``; raises ``OSError``, too."""
    try:
        with tarfile.open(path, tarinfo=_Entry) as archive:
            yield archive
    except (
        tarfile.TarError,
        EOFError,
        KeyError,
        RecursionError,
        zlib.error,
        lzma.LZMAError,
        gzip.BadGzipFile,
    ) as error:
        why = str(error).partition("\n")[0].rstrip(":")  # tarfile's tells of every compression, in a line each
        raise ArchiveUnfit(f"not an image archive: {why}") from None
    except (ValueError, OverflowError) as error:  # tarfile's, of numbers in extended headers
        raise ArchiveUnfit(f"not an image archive: a header in it is malformed ({error})") from None


def images(archive: tarfile.TarFile) -> Iterator[Image]:
    """The images in it. Raises ``ArchiveUnfit``."""
    names = set()
    for entry in archive:
        names.add(entry.name)
        if len(names) > _MAX_BLOBS:
            raise ArchiveUnfit(f"it has more than {_MAX_BLOBS} files")
    if "index.json" in names:
        yield from _indexed(archive, names, _document(archive, "index.json"), _MAX_DEPTH)
    elif "manifest.json" in names:  # docker before 25
        for saved in _items(_document(archive, "manifest.json")):
            yield Image(_object(_document(archive, str(saved.get("Config")))), _strings(saved.get("Layers")))
    else:
        raise ArchiveUnfit("not an image archive: neither index.json nor manifest.json is in it")


def _indexed(archive: tarfile.TarFile, names: set[str], index: Any, depth: int) -> Iterator[Image]:
    """The images of an index (image-spec, image-index.md) as far as they are here: other platforms' often are not."""
    for described in _items(_object(index).get("manifests")):
        blob = _blob(described)
        if blob not in names:
            continue
        manifest = _object(_document(archive, blob))
        if "manifests" in manifest:
            if depth:
                yield from _indexed(archive, names, manifest, depth - 1)
            continue
        config = _blob(_object(manifest.get("config")))
        layers = [_blob(layer) for layer in _items(manifest.get("layers"))]
        if config in names:
            yield Image(_object(_document(archive, config)), layers)


def _program(archive: tarfile.TarFile, image: Image) -> Program:
    settings = _object(image.config.get("config") or {})
    args = _strings(settings.get("Entrypoint")) + _strings(settings.get("Cmd"))
    if not args:
        raise ArchiveUnfit("the image names nothing to run: it has neither Entrypoint nor Cmd")
    name, _ = module_and_function(args[0])
    wanted = posixpath.join("/", str(settings.get("WorkingDir") or ""), name)
    tree = Tree(archive, image.layers)
    return Program(wanted, tree.copy(wanted))


class Tree:
    """An image's root file system: for each path, the layer and entry that it comes from."""

    def __init__(self, archive: tarfile.TarFile, layers: list[str]) -> None:
        self._archive = archive
        self._layers = layers
        self._entries: dict[str, tuple[str, tarfile.TarInfo]] = {}
        self._names: dict[str, set[str]] = {}
        """Names of the entries of each folder."""
        self._places = 0
        if len(layers) > _MAX_LAYERS:
            raise ArchiveUnfit(f"it has {len(layers)} layers; {_MAX_LAYERS} is the most")
        for layer in layers:
            with self._open(layer) as tar:
                self._add(layer, tar)

    def entries(self) -> list[tuple[str, tarfile.TarInfo]]:
        """Every path and what lies there; a path is without links but for its last part."""
        return [(self._place(path), entry) for path, (_, entry) in self._entries.items()]

    def files(self) -> Iterator[tuple[str, tarfile.TarInfo, IO[bytes]]]:
        """Every regular file, opened, layer by layer in the order in which they are stored."""
        stored: dict[str, list[tuple[str, tarfile.TarInfo]]] = {}
        for path, (layer, entry) in self._entries.items():
            stored.setdefault(layer, []).append((path, entry))
        for layer, here in stored.items():
            with self._open(layer) as tar:
                for path, entry in sorted(here, key=lambda each: each[1].offset):
                    source = _extract(tar, entry)
                    if source is not None:
                        with source:
                            yield self._place(path), entry, source

    def _place(self, path: str) -> str:
        folder, name = posixpath.split(path)
        return posixpath.join(self._resolve(folder), name)

    def copy(self, path: str) -> IO[bytes]:
        """The bytes of a file, in a temporary file."""
        found = self._entries.get(self._resolve(path))
        if found is None:
            raise ArchiveUnfit(f"{path}: not in the image")
        layer, entry = found
        with self._open(layer) as tar:
            source = _extract(tar, entry)
            if source is None:
                raise ArchiveUnfit(f"{path}: not a regular file")
            file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (the caller closes it)
            with source:
                while chunk := source.read(1 << 20):
                    file.write(chunk)
                    if file.tell() > MAX_MODULE:
                        raise ArchiveUnfit(f"{path}: more than {MAX_MODULE} bytes are too many for a module")
        return file

    def _open(self, layer: str) -> tarfile.TarFile:
        try:
            file = self._archive.extractfile(layer)
        except KeyError:
            file = None
        if file is None:
            raise ArchiveUnfit(f"layer {layer} is missing")
        head = file.read(len(_ZSTD))
        if head == _ZSTD:
            raise ArchiveUnfit(
                "its layers are compressed with zstd, which is not read here: save it with gzip or plain"
            )
        file.seek(0)
        return tarfile.open(fileobj=file, tarinfo=_Entry)

    def _add(self, layer: str, tar: tarfile.TarFile) -> None:
        added: dict[str, tuple[str, tarfile.TarInfo]] = {}
        for entry in tar:
            if len(entry.name) > _MAX_NAME:
                raise ArchiveUnfit(f"layer {layer} has a name of {len(entry.name)} characters; {_MAX_NAME} is the most")
            if "\0" in entry.name or "\0" in entry.linkname:
                raise ArchiveUnfit(f"layer {layer} has a name that holds a NUL: {entry.name[:200]!r}")
            if not (0 <= entry.uid < _NO_ID and 0 <= entry.gid < _NO_ID):
                raise ArchiveUnfit(f"layer {layer}: {entry.name[:200]}: there is no user {entry.uid}:{entry.gid}")
            path = _normal(entry.name)
            if path == "/" and not entry.isdir():
                raise ArchiveUnfit(f"layer {layer} has a root that is not a folder")
            folder, name = posixpath.split(path)
            if name == _OPAQUE:
                self._hide(folder, itself=False)
            elif name.startswith(_WHITEOUT):
                self._hide(posixpath.join(folder, name.removeprefix(_WHITEOUT)), itself=True)
            else:
                if not entry.isdir() and path in self._entries:
                    self._hide(path, itself=True)
                added[path] = (layer, entry)
            if len(added) > _MAX_ENTRIES:
                raise ArchiveUnfit(f"layer {layer} has more than {_MAX_ENTRIES} entries")
        self._entries.update(added)
        for path in added:
            self._enter(path)

    def _enter(self, path: str) -> None:
        """Note what lies in which folder, up to the root."""
        while path != "/":
            folder, name = posixpath.split(path)
            names = self._names.setdefault(folder, set())
            if name in names:
                return
            names.add(name)
            self._places += 1
            if self._places > 2 * _MAX_ENTRIES:
                raise ArchiveUnfit(f"its layers have more than {2 * _MAX_ENTRIES} files and folders")
            path = folder

    def _hide(self, path: str, itself: bool) -> None:
        """Hide what is in a folder, or the path ``itself`` too. Costs as much as what is hidden has entries."""
        left = [posixpath.join(path, name) for name in self._names.pop(path, ())]
        self._places -= len(left)
        while left:
            each = left.pop()
            self._entries.pop(each, None)
            inside = self._names.pop(each, ())
            self._places -= len(inside)
            left += [posixpath.join(each, name) for name in inside]
        folder, name = posixpath.split(path)
        if itself and name in self._names.get(folder, ()):
            self._names[folder].remove(name)
            self._places -= 1
            self._entries.pop(path, None)

    def _resolve(self, path: str) -> str:
        """The path without links, which lead nowhere but into the image."""
        left = path.split("/")[::-1]
        at = "/"
        links = 0
        while left:
            part = left.pop()
            if part in ("", "."):
                continue
            if part == "..":
                at = posixpath.dirname(at)
                continue
            at = posixpath.join(at, part)
            _, entry = self._entries.get(at, (None, None))
            if entry is not None and entry.issym():
                links += 1
                if links > _MAX_LINKS:
                    raise ArchiveUnfit(f"{path}: too many links")
                at = "/" if entry.linkname.startswith("/") else posixpath.dirname(at)
                left += entry.linkname.split("/")[::-1]
        return at


def _normal(name: str) -> str:
    return posixpath.normpath("/" + name.lstrip("/"))


def _blob(described: dict[str, Any]) -> str:
    return "blobs/" + str(described.get("digest")).replace(":", "/")


def _document(archive: tarfile.TarFile, name: str) -> Any:
    try:
        file = archive.extractfile(name)
        text = file.read(MAX_DOCUMENT + 1) if file else b""
        if len(text) > MAX_DOCUMENT:
            raise ArchiveUnfit(f"{name} is larger than {MAX_DOCUMENT} bytes")
        return strict_json.loads(text)
    except (KeyError, ValueError):
        raise ArchiveUnfit(f"{name} is missing, or not JSON") from None


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ArchiveUnfit("a document in it is not what it should be (a JSON object)")
    return value


def _items(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise ArchiveUnfit("a document in it is not what it should be (a JSON array)")
    return [_object(each) for each in value]


def _strings(value: Any) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else []


def _extract(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> IO[bytes] | None:
    """A file's bytes by an entry of an earlier opening; None where it is no file."""
    if entry.islnk():  # Python before 3.11.4 insists on the entry of this very opening
        entry = next(each for each in tar if each.offset == entry.offset)
    return tar.extractfile(entry) if entry.isreg() or entry.islnk() else None
