"""Finding programs in image archives, well made and ill made."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from supervisor.commands.pack import Reference, pack_image
from supervisor.images.archive import ArchiveUnfit, programs

WASM = b"\0asm\1\0\0\0"
Entry = tuple[str, bytes | str | None]
"""A name, and a file's bytes, a link's target, or None for a folder."""


def layer(*entries: Entry) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            if content is None:
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            elif isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                if content.startswith("hard:"):
                    info.type, info.linkname = tarfile.LNKTYPE, content.removeprefix("hard:")
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def archive(path: Path, files: dict[str, bytes]) -> Path:
    path.write_bytes(layer(*files.items()))
    return path


def blob(files: dict[str, bytes], content: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(content).hexdigest()
    files[f"blobs/sha256/{digest}"] = content
    return {"digest": f"sha256:{digest}", "size": len(content)}


def oci(path: Path, layers: list[bytes], **config: Any) -> Path:
    files: dict[str, bytes] = {}
    manifest = {
        "config": blob(files, json.dumps({"config": config}).encode()),
        "layers": [blob(files, each) for each in layers],
    }
    index = {"manifests": [blob(files, json.dumps(manifest).encode())]}
    return archive(path, {**files, "index.json": json.dumps(index).encode()})


def docker(path: Path, layers: list[bytes], **config: Any) -> Path:
    names = [f"{number}/layer.tar" for number in range(len(layers))]
    saved = [{"Config": "config.json", "RepoTags": ["a:b"], "Layers": names}]
    files = dict(zip(names, layers, strict=True))
    config_json = json.dumps({"config": config}).encode()
    return archive(path, {**files, "config.json": config_json, "manifest.json": json.dumps(saved).encode()})


def found(path: Path) -> list[tuple[str, bytes]]:
    result = []
    for program in programs(path):
        with program.file as file:
            file.seek(0)
            result.append((program.name, file.read()))
    return result


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return tmp_path / "image.tar"


MANY = 20_000


@pytest.mark.parametrize("whiteout", ["one of each", "a folder of each", "opaque folders"])
def test_whiteouts_cost_what_they_hide(image: Path, whiteout: str) -> None:
    """As many whiteouts as files took 0.1.0 half a minute at 30,000."""
    lower = layer(("app.wasm", WASM), *((f"d{number}/file", b"") for number in range(MANY)))
    name = {"one of each": "d{}/.wh.file", "a folder of each": ".wh.d{}", "opaque folders": "d{}/.wh..wh..opq"}[
        whiteout
    ]
    upper = layer(*((name.format(number), b"") for number in range(MANY)))
    began = time.process_time()
    assert found(oci(image, [lower, upper], Entrypoint=["/app.wasm"])) == [("/app.wasm", WASM)]
    assert time.process_time() - began < 10


def test_whiteouts_and_files_that_come_again(image: Path) -> None:
    layers = [
        layer(("a/b/one", b"1"), ("a/b/two", b"2"), ("a/c", b"3")),
        layer(("a/.wh.b", b"")),
        layer(("a/b/two", b"again")),
        layer(("a/b", b"a file now")),
    ]
    assert found(oci(image, layers, Entrypoint=["/a/b"])) == [("/a/b", b"a file now")]
    assert found(oci(image, layers[:3], Entrypoint=["/a/b/two"])) == [("/a/b/two", b"again")]
    for gone in ("/a/b/one", "/a/b/two"):
        with pytest.raises(ArchiveUnfit, match="not in the image"):
            found(oci(image, layers[:2] if gone.endswith("two") else layers, Entrypoint=[gone]))


def test_layers_without_end_and_names_without_end(image: Path) -> None:
    with pytest.raises(ArchiveUnfit, match="600 layers; 512 is the most"):
        found(oci(image, [layer(("app.wasm", WASM))] * 600, Entrypoint=["/app.wasm"]))
    with pytest.raises(ArchiveUnfit, match="4096 is the most"):
        found(oci(image, [layer(("a/" * 5000, b""))], Entrypoint=["/app.wasm"]))


def test_an_image_that_pack_made(tmp_path: Path, image: Path) -> None:
    module = tmp_path / "app.wasm"
    module.write_bytes(WASM + b"app")
    pack_image(module, Reference.parse("app"), image, ["--flag"])
    assert found(image) == [("/app.wasm", WASM + b"app")]


@pytest.mark.parametrize("write", [oci, docker], ids=["oci", "docker"])
def test_layouts_of_both_kinds(image: Path, write: Any) -> None:
    lower, upper = layer(("bin/app.wasm", b"old")), layer(("bin/app.wasm", b"new"))
    assert found(write(image, [lower, upper], Entrypoint=["/bin/app.wasm"])) == [("/bin/app.wasm", b"new")]


def test_an_archive_and_layers_may_be_compressed(image: Path) -> None:
    oci(image, [gzip.compress(layer(("app.wasm", b"app")))], Entrypoint=["app.wasm"])
    assert found(image) == [("/app.wasm", b"app")]
    image.write_bytes(gzip.compress(image.read_bytes()))
    assert found(image) == [("/app.wasm", b"app")]


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"Entrypoint": ["/srv/app.wasm", "-x"]}, "/srv/app.wasm"),
        ({"Cmd": ["/srv/app.wasm"]}, "/srv/app.wasm"),
        ({"Entrypoint": ["app.wasm"], "WorkingDir": "/srv"}, "/srv/app.wasm"),
        ({"Entrypoint": ["/srv/app.wasm#main"], "Cmd": ["other"]}, "/srv/app.wasm"),
    ],
)
def test_the_program_is_what_the_image_would_run(image: Path, config: dict[str, Any], name: str) -> None:
    assert found(oci(image, [layer(("srv/app.wasm", b"app"))], **config)) == [(name, b"app")]


@pytest.mark.parametrize(
    "entries",
    [
        (("app.wasm", "real.wasm"), ("real.wasm", b"app")),
        (("app.wasm", "/opt/real.wasm"), ("opt/real.wasm", b"app")),
        (("app.wasm", "../../../opt/real.wasm"), ("opt/real.wasm", b"app")),
        (("app.wasm", "lib/real.wasm"), ("lib", "opt/v1"), ("opt/v1/real.wasm", b"app")),
        (("opt/real.wasm", b"app"), ("app.wasm", "hard:opt/real.wasm")),
    ],
)
def test_links_are_followed_inside_the_image(image: Path, entries: tuple[Entry, ...]) -> None:
    assert found(oci(image, [layer(*entries)], Entrypoint=["/app.wasm"])) == [("/app.wasm", b"app")]


def test_removals_of_upper_layers(image: Path) -> None:
    lower = layer(("a/app.wasm", b"app"), ("b/app.wasm", b"app"), ("c/app.wasm", b"app"))
    upper = layer(("a/.wh.app.wasm", b""), (".wh.b", b""), ("c/.wh..wh..opq", b""), ("c/new.wasm", b"new"))
    for name in ("/a/app.wasm", "/b/app.wasm", "/c/app.wasm"):
        with pytest.raises(ArchiveUnfit, match=f"{name}: not in the image"):
            found(oci(image, [lower, upper], Entrypoint=[name]))
    assert found(oci(image, [lower, upper], Entrypoint=["/c/new.wasm"])) == [("/c/new.wasm", b"new")]


def test_images_of_other_platforms_may_be_missing(image: Path) -> None:
    files: dict[str, bytes] = {}
    config = blob(files, json.dumps({"config": {"Entrypoint": ["/app.wasm"]}}).encode())
    manifest = {"config": config, "layers": [blob(files, layer(("app.wasm", b"app")))]}
    nested = {"manifests": [{"digest": "sha256:absent"}, blob(files, json.dumps(manifest).encode())]}
    index = {"manifests": [blob(files, json.dumps(nested).encode())]}
    assert found(archive(image, {**files, "index.json": json.dumps(index).encode()})) == [("/app.wasm", b"app")]


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ((("app.wasm", "app.wasm"),), "too many links"),
        ((("app.wasm", "b"), ("b", "app.wasm")), "too many links"),
        ((("app.wasm", "/etc/passwd"),), "not in the image"),
        ((("app.wasm", "../../../../../../etc/passwd"),), "not in the image"),
        ((("app.wasm", None),), "not a regular file"),
        ((("other.wasm", b"app"),), "not in the image"),
        ((("app.wasm", "hard:absent"),), "not an image archive|not a regular|not in"),
    ],
)
def test_a_program_that_cannot_be_read_is_told(image: Path, entries: tuple[Entry, ...], why: str) -> None:
    with pytest.raises(ArchiveUnfit, match=why):
        found(oci(image, [layer(*entries)], Entrypoint=["/app.wasm"]))


def nested_for_ever(image: Path) -> Path:
    files: dict[str, bytes] = {}
    index = {"manifests": [{"digest": "sha256:none"}]}
    for _ in range(20):
        index = {"manifests": [blob(files, json.dumps(index).encode())]}
    return archive(image, {**files, "index.json": json.dumps(index).encode()})


@pytest.mark.parametrize(
    ("write", "why"),
    [
        (lambda path: path.write_bytes(b"") and path, "not an image archive"),
        (lambda path: path.write_bytes(b"nonsense" * 1000), "not an image archive"),
        (lambda path: archive(path, {"a": b""}), "neither index.json nor manifest.json"),
        (lambda path: archive(path, {"index.json": b"{"}), "not JSON"),
        (lambda path: archive(path, {"index.json": b"[" * 100_000}), "not JSON"),
        (lambda path: archive(path, {"index.json": b"[]"}), "not what it should be"),
        (lambda path: archive(path, {"index.json": b'{"manifests": [1]}'}), "not what it should be"),
        (lambda path: archive(path, {"index.json": b'{"manifests": []}'}), "there is no image"),
        (lambda path: archive(path, {"index.json": b" " * (9 << 20)}), "larger than"),
        (lambda path: archive(path, {"manifest.json": b'[{"Config": "x", "Layers": []}]'}), "x is missing"),
        (nested_for_ever, "there is no image"),
        (lambda path: oci(path, []), "neither Entrypoint nor Cmd"),
        (lambda path: oci(path, [b"\x28\xb5\x2f\xfd" + bytes(100)], Cmd=["a"]), "zstd"),
        (lambda path: oci(path, [b"nonsense" * 100], Cmd=["a"]), "not an image archive"),
        (lambda path: docker(path, [b""], Cmd=["a"]), "not an image archive"),
    ],
)
def test_an_archive_that_is_none_is_told(image: Path, write: Any, why: str) -> None:
    write(image)
    with pytest.raises(ArchiveUnfit, match=why):
        found(image)


def test_a_module_of_any_size_does_not_fill_the_disk(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.images.archive.MAX_MODULE", 1 << 20)
    bomb = gzip.compress(layer(("app.wasm", bytes(64 << 20))))
    with pytest.raises(ArchiveUnfit, match="too many for a module"):
        found(oci(image, [bomb], Entrypoint=["/app.wasm"]))


def with_header(**members: Any) -> bytes:
    """A layer with one file whose header says so."""
    info = tarfile.TarInfo("app.wasm")
    for name, value in members.items():
        setattr(info, name, value)
    return info.tobuf(tarfile.PAX_FORMAT) + bytes(1024)


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ({"pax_headers": {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}}, "not an image archive"),
        ({"pax_headers": {"GNU.sparse.map": "0,x"}}, "not an image archive"),
        ({"pax_headers": {"path": "app\0.wasm"}}, "holds a NUL"),
        ({"pax_headers": {"linkpath": "a\0"}, "type": tarfile.SYMTYPE}, "holds a NUL"),
        ({"name": "./", "type": tarfile.SYMTYPE, "linkname": "/etc"}, "root that is not a folder"),
        ({"name": "/", "type": tarfile.REGTYPE}, "root that is not a folder"),
        ({"uid": 1 << 33}, "no user"),
        ({"gid": 0xFFFFFFFF}, "no user"),
        ({"uid": -1}, "no user"),
    ],
)
def test_a_header_that_cannot_be_is_told(image: Path, members: dict[str, Any], why: str) -> None:
    with pytest.raises(ArchiveUnfit, match=why):
        found(oci(image, [with_header(**members)], Entrypoint=["/app.wasm"]))


def header(name: bytes, size: bytes, kind: bytes = b"0") -> bytes:
    """A tar header with a size as it stands there (ustar, 12 bytes)."""
    made = bytearray(tarfile.TarInfo(name.decode()).tobuf())
    made[124:136], made[156:157] = size, kind
    made[148:156] = b" " * 8
    made[148:156] = b"%06o\0 " % sum(made)
    return bytes(made)


def settings(record: bytes) -> bytes:
    """A pax header with one record."""
    body = b"%d %s\n" % (len(record) + 4, record)
    assert len(body) == len(record) + 4
    return header(b"pax", b"%011o\0" % len(body), b"x") + body.ljust(512, b"\0")


NOTHING = header(b"empty", b"%011o\0" % 0)
BACK = (-1024 % (1 << 96)).to_bytes(12, "big")
"""A negative size (GNU's base 256)."""


@pytest.mark.parametrize(
    "data",
    [
        NOTHING + header(b"index.json", BACK),
        NOTHING * 4 + settings(b"size=-2048") + NOTHING,
        settings(b"size=" + b"9" * 80) + NOTHING,
        header(b"pax", b"%011o\0" % (1 << 30), b"x"),
        header(b"long", b"%011o\0" % (1 << 30), b"L"),
    ],
    ids=["negative", "negative by pax", "enormous", "long settings", "a long name"],
)
def test_impossible_sizes_are_refused_and_never_read_for_ever(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "image.tar"
    path.write_bytes(data + bytes(1024))
    with pytest.raises(ArchiveUnfit, match="not an image archive"):
        list(programs(path))
    path = oci(tmp_path / "layered.tar", [data + bytes(1024)], Entrypoint=["/app.wasm"])
    with pytest.raises(ArchiveUnfit, match="not an image archive"):
        list(programs(path))


def test_an_archive_of_countless_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.images.archive._MAX_BLOBS", 10)
    files = {f"{number}": b"" for number in range(11)}
    with pytest.raises(ArchiveUnfit, match="more than 10 files"):
        list(programs(archive(tmp_path / "image.tar", files)))
