"""An image archive's root file system, unpacked into a folder, and what its configuration says to run.

Every name is made once, after all layers are known by name: folders, then files, then links. So nothing is ever written
through a link of the image's.
"""

from __future__ import annotations

import os
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from .archive import ArchiveUnfit, Tree, images, reading

MAX_BYTES = 4 << 30
"""Bytes of all files together."""
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """An image's entry point and environment, from its configuration (image-spec, config.md)."""

    entrypoint: tuple[str, ...]
    cmd: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    user: str


def read_config(path: Path) -> ImageConfig:
    """The configuration of the one image in an archive. Raises ``ArchiveUnfit`` and ``OSError``."""
    with reading(path) as archive:
        found = list(images(archive))
    if len(found) != 1:
        raise ArchiveUnfit(f"there are {len(found)} images in it: one can be run")
    config = found[0].config.get("config") or {}
    if not isinstance(config, dict):
        raise ArchiveUnfit("its configuration is not a JSON object")
    entrypoint, cmd, env = (_strings(config.get(name)) for name in ("Entrypoint", "Cmd", "Env"))
    if not entrypoint + cmd:
        raise ArchiveUnfit("the image names nothing to run: it has neither Entrypoint nor Cmd")
    return ImageConfig(entrypoint, cmd, env, str(config.get("WorkingDir") or ""), str(config.get("User") or ""))


def unpack(path: Path, folder: Path) -> None:
    """Unpack the root file system into an empty folder. Raises ``ArchiveUnfit`` and ``OSError``."""
    with reading(path) as archive:
        tree = Tree(archive, next(images(archive)).layers)
        entries = tree.entries()
        for name, entry in sorted((each for each in entries if each[1].isdir()), key=lambda each: each[0]):
            target = _inside(folder, name)
            target.mkdir(0o755, parents=True, exist_ok=True)
            os.chown(target, entry.uid, entry.gid)
            target.chmod(entry.mode & 0o1777)
        left = MAX_BYTES
        for name, entry, source in tree.files():
            left -= _write(_inside(folder, name), entry, source, left)
        for name, entry in entries:
            if entry.issym():
                target = _inside(folder, name)
                target.parent.mkdir(0o755, parents=True, exist_ok=True)
                target.symlink_to(entry.linkname)


def _write(target: Path, entry: tarfile.TarInfo, source: IO[bytes], most: int) -> int:
    """Make a file; its bytes, which a hard link's entry does not tell."""
    target.parent.mkdir(0o755, parents=True, exist_ok=True)
    with target.open("xb") as file:
        while chunk := source.read(_CHUNK):
            file.write(chunk)
            if file.tell() > most:
                raise ArchiveUnfit(f"its files have more than {MAX_BYTES} bytes")
        os.fchown(file.fileno(), entry.uid, entry.gid)
        os.fchmod(file.fileno(), entry.mode & 0o777)
        return file.tell()


def _inside(folder: Path, name: str) -> Path:
    """Place of a path of the image's, which is absolute and normal: there is no '..' in it."""
    return folder / name.lstrip("/")


def _strings(value: object) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else ()
