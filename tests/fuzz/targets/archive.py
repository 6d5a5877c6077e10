"""Image archives: whatever is in one, it is unpacked into its folder and nowhere else, or refused.

An input is an archive's bytes, or JSON that describes one: ``layers``, each a list of entries, and the image's
``config``. An entry is its name, its kind (a letter of ``KINDS``), its content, and other members of its header.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import stat
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from supervisor.images import archive, unpack

from ..json_mutation import mutator
from ..values import check_text

MOST = 32768
KINDS = {"f": tarfile.REGTYPE, "d": tarfile.DIRTYPE, "s": tarfile.SYMTYPE, "h": tarfile.LNKTYPE, "c": tarfile.CHRTYPE}
KEYS = (
    *("layers", "config", "Entrypoint", "Cmd", "Env", "WorkingDir", "User", "docker", "name", "kind", "content"),
    *("mode", "uid", "gid", "size", "mtime", "pax", "path", "linkpath", "GNU.sparse.map", "GNU.sparse.realsize"),
    *("GNU.sparse.major", "GNU.sparse.minor", "GNU.sparse.name", "hdrcharset"),
)
WORDS = (b"ustar", b"index.json", b"manifest.json", b"blobs/sha256/", b".wh.", b".wh..wh..opq", b"../", b"GNU.sparse.")

_json = mutator(KEYS)
_inside = ""
_escaped: list[str] = []


def mutate(data: bytes, most: int, seed: int) -> bytes:
    if data[:1] == b"{":
        return bytes(_json(data, most, seed))
    import atheris

    return _with_checksums(bytes(atheris.Mutate(data, most)))


def run(data: bytes) -> None:
    global _inside
    with tempfile.TemporaryDirectory(prefix="fuzz-archive-") as folder:
        path, root = Path(folder, "image.tar"), Path(folder, "root")
        root.mkdir()
        path.write_bytes(_described(data) if data[:1] == b"{" else data)
        try:
            for program in archive.programs(path):
                program.file.close()
        except (archive.ArchiveUnfit, OSError) as error:
            check_text(error)
        try:
            unpack.read_config(path)
            _inside = str(root)
            unpack.unpack(path, root)
        except (archive.ArchiveUnfit, OSError):
            pass
        finally:
            _inside = ""
        assert not _escaped, _escaped.pop()
        assert sorted(os.listdir(folder)) == ["image.tar", "root"]
        for each, folders, files in os.walk(root):
            for name in folders + files:
                status = os.lstat(os.path.join(each, name))
                kept = stat.S_ISVTX if stat.S_ISDIR(status.st_mode) else 0  # as /tmp has
                assert status.st_mode & 0o7000 & ~kept == 0, "set-user-ID, set-group-ID or sticky"
                assert status.st_nlink == 1 or os.path.isdir(os.path.join(each, name))
        shutil.rmtree(root)


def _watch(event: str, args: tuple[Any, ...]) -> None:
    """Note what is written or made outside of the folder, by any way that Python has (audit events)."""
    if not _inside or event not in ("open", "os.mkdir", "os.chmod", "os.chown", "os.symlink", "os.link", "os.mknod"):
        return
    if event == "open" and not (isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
        return
    path = args[1] if event in ("os.symlink", "os.link") else args[0]
    if isinstance(path, str | os.PathLike):
        folder = os.path.realpath(os.path.dirname(os.fspath(path)))
        if folder != _inside and not folder.startswith(_inside + "/") and os.fspath(path) != _inside:
            _escaped.append(f"{event} {path!r}")


sys.addaudithook(_watch)
archive.MAX_MODULE = unpack.MAX_BYTES = 1 << 20  # a sparse file fills either


def _described(data: bytes) -> bytes:
    """The archive that a description asks for, as far as it can be written."""
    try:
        asked = json.loads(data)
    except (ValueError, RecursionError):
        return data
    if not isinstance(asked, dict):
        return data
    files: list[tuple[str, bytes]] = []

    def blob(content: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        files.append((f"blobs/sha256/{digest}", content))
        return {"digest": f"sha256:{digest}", "size": len(content)}

    layers = [_layer(each) for each in _list(asked.get("layers"))[:8]]
    config = json.dumps({"config": asked.get("config")}).encode()
    if asked.get("docker"):
        files += [(f"{number}/layer.tar", layer) for number, layer in enumerate(layers)]
        saved = [{"Config": "config.json", "Layers": [name for name, _ in files]}]
        files += [("config.json", config), ("manifest.json", json.dumps(saved).encode())]
    else:
        manifest = {"config": blob(config), "layers": [blob(each) for each in layers]}
        files.append(("index.json", json.dumps({"manifests": [blob(json.dumps(manifest).encode())]}).encode()))
    return _tar([{"name": name, "kind": "f", "content": content.decode("latin-1")} for name, content in files])


def _layer(entries: Any) -> bytes:
    return _tar(_list(entries)[:64])


def _tar(entries: list[Any]) -> bytes:
    buffer = io.BytesIO()
    for entry in entries:
        if not isinstance(entry, dict):
            continue
        info = tarfile.TarInfo(_text(entry.get("name")))
        info.type = KINDS.get(_text(entry.get("kind")), tarfile.REGTYPE)
        content = _text(entry.get("content")).encode("latin-1", errors="replace")
        if info.type in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            info.linkname, content = content.decode("latin-1"), b""
        info.size = len(content)
        for name in ("mode", "uid", "gid", "size", "mtime"):
            if isinstance(entry.get(name), int) and not isinstance(entry[name], bool):
                setattr(info, name, entry[name])
        if isinstance(entry.get("pax"), dict):
            info.pax_headers = {str(key): str(value) for key, value in entry["pax"].items()}
        try:
            header = info.tobuf(tarfile.PAX_FORMAT, errors="surrogateescape")
        except (ValueError, OverflowError, UnicodeError):
            continue
        buffer.write(header + content + bytes(-len(content) % 512))
    return buffer.getvalue() + bytes(1024)


def _with_checksums(data: bytes) -> bytes:
    """The same with every header's checksum as it should be (tar(5))."""
    blocks = [bytearray(data[at : at + 512]) for at in range(0, len(data), 512)]
    for block in blocks:
        if block[257:262] == b"ustar" and len(block) == 512:
            block[148:156] = b" " * 8
            block[148:156] = b"%06o\0 " % sum(block)
    return b"".join(blocks)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
