"""Images unpacked into a folder: layers, links and hostile names."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from supervisor.images import unpack as unpacking
from supervisor.images.archive import ArchiveUnfit
from supervisor.images.unpack import read_config, unpack

from .test_archive import WASM, layer, oci

RUNS = {"Entrypoint": ["/app.wasm"]}


def unpacked(tmp_path: Path, *layers: bytes) -> dict[str, str | bytes | None]:
    """Contents by path: a link's target, a file's bytes, None for a folder."""
    root = tmp_path / "root"
    root.mkdir()
    unpack(oci(tmp_path / "image.tar", list(layers), **RUNS), root)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["image.tar", "root"]
    found: dict[str, str | bytes | None] = {}
    for parent, folders, files in os.walk(root):
        for name in folders + files:
            path = Path(parent, name)
            content = os.readlink(path) if path.is_symlink() else None if path.is_dir() else path.read_bytes()
            found[str(path.relative_to(root))] = content
    return found


def test_later_layers_replace_and_remove(tmp_path: Path) -> None:
    one = layer(("app.wasm", WASM), ("etc/", None), ("etc/a", b"1"), ("etc/b", b"1"), ("old/x", b"1"))
    two = layer(("etc/a", b"2"), ("etc/.wh.b", b""), ("old/.wh..wh..opq", b""), ("old/y", b"2"), ("link", "etc/a"))
    assert unpacked(tmp_path, one, two) == {
        "app.wasm": WASM, "etc": None, "etc/a": b"2", "old": None, "old/y": b"2", "link": "etc/a"
    }  # fmt: skip


def test_a_path_through_a_link_stays_in_the_image(tmp_path: Path) -> None:
    found = unpacked(tmp_path, layer(("usr/lib/", None), ("lib", "/usr/lib")), layer(("lib/a", b"1")))
    assert found == {"usr": None, "usr/lib": None, "usr/lib/a": b"1", "lib": "/usr/lib"}


@pytest.mark.parametrize("target", ["/", "../../..", "/etc", "..", "loop"])
def test_no_link_leads_out(tmp_path: Path, target: str) -> None:
    hostile = layer(("out", target), ("loop", "loop"), ("out/escaped", b"1"), ("../../up", b"1"), ("/abs", b"1"))
    try:
        found = unpacked(tmp_path, hostile)
    except (ArchiveUnfit, OSError):
        found = {}
    assert all(not Path(where, "escaped").exists() for where in ("/", "/etc", tmp_path, tmp_path.parent))
    assert not (tmp_path.parent / "up").exists()
    assert not Path("/abs").exists()
    assert set(found) <= {"out", "loop", "escaped", "up", "abs", "etc", "etc/escaped"}


def test_a_hard_link_is_a_copy_and_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = layer(("a", b"12345"), ("b", "hard:a"))
    assert unpacked(tmp_path, image) == {"a": b"12345", "b": b"12345"}
    monkeypatch.setattr(unpacking, "MAX_BYTES", 8)
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(ArchiveUnfit, match="more than 8 bytes"):
        unpack(tmp_path / "image.tar", other)


def test_its_configuration(tmp_path: Path) -> None:
    config = {"Entrypoint": ["/a.wasm"], "Cmd": ["b"], "Env": ["C=d"], "WorkingDir": "/w", "User": "5"}
    path = oci(tmp_path / "image.tar", [], **config)
    assert read_config(path) == unpacking.ImageConfig(("/a.wasm",), ("b",), ("C=d",), "/w", "5")
    with pytest.raises(ArchiveUnfit, match="nothing to run"):
        read_config(oci(tmp_path / "other.tar", []))


def test_folders_have_their_owners(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        data = tarfile.TarInfo("data")
        data.type, data.mode, data.uid, data.gid = tarfile.DIRTYPE, 0o1770, 1000, 2000
        tar.addfile(data)
    unpacked(tmp_path, buffer.getvalue())
    status = (tmp_path / "root/data").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (1000, 2000, 0o1770)
