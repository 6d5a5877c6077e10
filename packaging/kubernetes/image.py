"""Makes an image archive of a folder: ``image.py FOLDER NAME ARCHIVE``. All that is in it is root's."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import sys
import tarfile
import tempfile
from pathlib import Path

from supervisor.commands.pack import ARCHITECTURES


def main(folder: Path, name: str, archive: Path) -> None:
    """Write the archive, as ``docker save`` would."""
    with tempfile.TemporaryFile(dir=archive.parent) as layer:
        with tarfile.open(fileobj=layer, mode="w") as tar:
            for entry in sorted(folder.iterdir()):
                tar.add(entry, entry.name, filter=_roots)
        size = layer.tell()
        layer.seek(0)
        digest = hashlib.file_digest(layer, "sha256").hexdigest()
        layer.seek(0)
        config = {
            "os": "linux",
            "architecture": ARCHITECTURES[platform.machine()][0],
            "config": {"Entrypoint": ["/bin/sh", "/bin/node.sh"], "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
        saved = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
        with tarfile.open(archive, mode="w") as tar:
            _add(tar, "config.json", json.dumps(config).encode())
            info = tarfile.TarInfo("layer.tar")
            info.size = size
            tar.addfile(info, layer)
            _add(tar, "manifest.json", json.dumps(saved).encode())


def _roots(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    return info


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
