"""`wasm-sandboxer pack`: what the archive holds, and what it says when it cannot make one."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from supervisor.commands.pack import Folder, Reference, pack, pack_image

MODULE = b"\0asm\x01\0\0\0"


@pytest.fixture
def module(tmp_path: Path) -> Path:
    path = tmp_path / "app.wasm"
    path.write_bytes(MODULE)
    return path


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(pack, [str(argument) for argument in arguments])


class Archive:
    """An image archive, read back the way a client reads it: by digests."""

    def __init__(self, path: Path) -> None:
        with tarfile.open(path) as archive:
            self.members = archive.getmembers()
            self.files = {m.name: archive.extractfile(m).read() for m in self.members if m.isfile()}  # type: ignore[union-attr]
        self.index = json.loads(self.files["index.json"])
        self.manifest = json.loads(self.blob(self.index["manifests"][0]))
        self.config = json.loads(self.blob(self.manifest["config"]))

    def blob(self, descriptor: dict[str, Any]) -> bytes:
        algorithm, value = descriptor["digest"].split(":")
        data = self.files[f"blobs/{algorithm}/{value}"]
        assert len(data) == descriptor["size"]
        assert hashlib.new(algorithm, data).hexdigest() == value
        return data

    @property
    def layer(self) -> dict[str, tarfile.TarInfo]:
        (descriptor,) = self.manifest["layers"]
        with tarfile.open(fileobj=io.BytesIO(self.blob(descriptor))) as layer:
            return {member.name: member for member in layer.getmembers()}

    def read(self, name: str) -> bytes:
        (descriptor,) = self.manifest["layers"]
        with tarfile.open(fileobj=io.BytesIO(self.blob(descriptor))) as layer:
            file = layer.extractfile(name)
            assert file is not None
            return file.read()


def test_the_archive_is_an_oci_layout_that_names_the_image_and_runs_the_module(module: Path, tmp_path: Path) -> None:
    output = tmp_path / "image.tar"
    result = run(module, "-t", "app:1", "-o", output, "--arg", "-v", "--arg", "two words", "--env", "MODE=a=b")

    assert result.exit_code == 0, result.output
    image = Archive(output)
    assert json.loads(image.files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    annotations = image.index["manifests"][0]["annotations"]
    assert annotations["io.containerd.image.name"] == "docker.io/library/app:1"
    assert annotations["org.opencontainers.image.ref.name"] == "1"
    assert image.config["config"]["Entrypoint"] == ["/app.wasm", "-v", "two words"]
    assert image.config["config"]["Env"] == ["MODE=a=b"]
    assert image.config["os"] == "linux"
    assert image.read("app.wasm") == MODULE
    assert image.index["manifests"][0]["digest"] in result.output


def test_docker_and_isulad_find_the_same_config_and_layer_in_manifest_json(module: Path, tmp_path: Path) -> None:
    output = tmp_path / "image.tar"
    run(module, "-t", "team/app:1", "-o", output)

    image = Archive(output)
    (saved,) = json.loads(image.files["manifest.json"])
    assert saved["RepoTags"] == ["team/app:1"]
    assert json.loads(image.files[saved["Config"]]) == image.config
    (layer,) = saved["Layers"]
    assert f"sha256:{hashlib.sha256(image.files[layer]).hexdigest()}" == image.config["rootfs"]["diff_ids"][0]
    # iSulad refuses an image without these
    assert image.config["created"]
    assert all(entry["created"] for entry in image.config["history"])


def test_equal_input_makes_an_equal_archive(module: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "b").write_text("b")
    (site / "a").write_text("a")
    run(module, "-t", "app", "-o", tmp_path / "1.tar", "--dir", f"{site}:/srv")

    os.utime(module, (1, 1))
    (site / "a").unlink()
    (site / "a").write_text("a")  # another inode, another time, another place in the folder
    (site / "a").chmod(0o600)
    run(module, "-t", "app", "-o", tmp_path / "2.tar", "--dir", f"{site}:/srv")

    assert (tmp_path / "1.tar").read_bytes() == (tmp_path / "2.tar").read_bytes()
    assert all(
        member.mtime == 0 and member.uid == 0 and not member.uname for member in Archive(tmp_path / "1.tar").members
    )


def test_a_folder_is_packed_with_its_tree_links_and_execute_bits(module: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    (site / "empty").mkdir(parents=True)
    (site / "page").write_text("hello")
    (site / "tool").write_text("#!")
    (site / "tool").chmod(0o755)
    (site / "link").symlink_to("/elsewhere")
    result = run(module, "-t", "app", "-o", tmp_path / "image.tar", "--dir", f"{site}:/srv/www")

    assert result.exit_code == 0, result.output
    image = Archive(tmp_path / "image.tar")
    assert list(image.layer) == [
        "app.wasm",
        "srv",
        "srv/www",
        "srv/www/empty",
        "srv/www/link",
        "srv/www/page",
        "srv/www/tool",
    ]
    assert image.read("srv/www/page") == b"hello"
    assert image.layer["srv/www/page"].mode == 0o644
    assert image.layer["srv/www/tool"].mode == 0o755
    assert image.layer["srv/www/empty"].isdir()
    assert image.layer["srv/www/link"].linkname == "/elsewhere"


def test_a_folder_can_be_the_root(module: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "link").symlink_to("page")
    (site / "page").write_text("hello")
    run(module, "-t", "app", "-o", tmp_path / "image.tar", "--dir", f"{site}:/")

    layer = Archive(tmp_path / "image.tar").layer
    assert list(layer) == ["app.wasm", "link", "page"]
    assert layer["link"].issym()
    assert layer["page"].mode == 0o644


def test_a_module_named_through_a_link_is_packed_itself(module: Path, tmp_path: Path) -> None:
    link = tmp_path / "latest.wasm"
    link.symlink_to(module)
    run(link, "-t", "app", "-o", tmp_path / "image.tar")

    image = Archive(tmp_path / "image.tar")
    assert image.read("latest.wasm") == MODULE
    assert image.config["config"]["Entrypoint"] == ["/latest.wasm"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\x7fELF....", "not a WebAssembly module"),
        (b"", "is empty"),
        (b"\0asm", "not a WebAssembly module"),
        (b"\0asm\x0d\0\x01\0", "component"),
    ],
)
def test_other_files_than_modules_are_refused_with_a_remedy(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "app.wasm").write_bytes(content)
    result = run(tmp_path / "app.wasm", "-t", "app", "-o", tmp_path / "image.tar")

    assert result.exit_code == 1
    assert says in result.output
    assert "wasm32-wasip1" in result.output
    assert len(result.output.splitlines()) == 1
    assert os.listdir(tmp_path) == ["app.wasm"]


def test_a_missing_module_is_named(tmp_path: Path) -> None:
    result = run(tmp_path / "app.wasm", "-t", "app", "-o", tmp_path / "image.tar")
    assert result.exit_code == 1
    assert f"{tmp_path}/app.wasm: No such file or directory" in result.output


def test_a_failure_leaves_the_old_archive_and_nothing_else(module: Path, tmp_path: Path) -> None:
    output = tmp_path / "image.tar"
    run(module, "-t", "app", "-o", output)
    before = output.read_bytes()
    os.mkfifo(tmp_path / "fifo")
    site = tmp_path / "site"
    site.mkdir()
    (tmp_path / "fifo").rename(site / "fifo")

    result = run(module, "-t", "app", "-o", output, "--dir", f"{site}:/srv")
    assert result.exit_code == 1
    assert "neither a file, a folder nor a link" in result.output
    assert output.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["app.wasm", "image.tar", "site"]


def test_an_output_that_cannot_be_written_is_said(module: Path, tmp_path: Path) -> None:
    result = run(module, "-t", "app", "-o", tmp_path / "none" / "image.tar")
    assert result.exit_code == 1
    assert "image.tar: No such file or directory" in result.output


def test_the_archive_cannot_lie_in_a_folder_it_packs(module: Path, tmp_path: Path) -> None:
    result = run(module, "-t", "app", "-o", tmp_path / "image.tar", "--dir", f"{tmp_path}:/srv")
    assert result.exit_code == 1
    assert "write the image somewhere else" in result.output


def test_two_things_in_one_place_are_refused(module: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "app.wasm").write_bytes(MODULE)
    result = run(module, "-t", "app", "-o", tmp_path / "image.tar", "--dir", f"{site}:/")
    assert result.exit_code == 1
    assert "/app.wasm" in result.output


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--env", "MODE", "NAME=VALUE"),
        ("--env", "=x", "NAME=VALUE"),
        ("--dir", "site", "HOST:GUEST"),
        ("--dir", "site:srv", "HOST:GUEST"),
        ("--dir", "/none:/srv", "/none is not a folder"),
        ("--dir", "/tmp:/srv/../etc", "'..'"),
    ],
)
def test_a_malformed_option_is_a_usage_error(module: Path, tmp_path: Path, option: str, value: str, says: str) -> None:
    result = run(module, "-t", "app", "-o", tmp_path / "image.tar", option, value)
    assert result.exit_code == 2
    assert says in result.output
    assert not (tmp_path / "image.tar").exists()


@pytest.mark.parametrize(
    ("text", "full", "familiar"),
    [
        ("app", "docker.io/library/app:latest", "app:latest"),
        ("app:1", "docker.io/library/app:1", "app:1"),
        ("team/app", "docker.io/team/app:latest", "team/app:latest"),
        ("docker.io/app", "docker.io/library/app:latest", "app:latest"),
        ("ghcr.io/team/app:v1.0_x", "ghcr.io/team/app:v1.0_x", "ghcr.io/team/app:v1.0_x"),
        ("localhost/app:1", "localhost/app:1", "localhost/app:1"),
        ("localhost:5000/app", "localhost:5000/app:latest", "localhost:5000/app:latest"),
        ("a--b/c__d/e.f", "docker.io/a--b/c__d/e.f:latest", "a--b/c__d/e.f:latest"),
    ],
)
def test_names_are_read_as_docker_reads_them(text: str, full: str, familiar: str) -> None:
    reference = Reference.parse(text)
    assert str(reference) == full
    assert reference.familiar == familiar


@pytest.mark.parametrize(
    "text", ["", "App", "app:", "app@sha256:00", "a b", "-x", "app:-1", "/app", "r.io/", "a//b", "é"]
)
def test_invalid_names_are_refused(text: str) -> None:
    with pytest.raises(click.UsageError, match="no image name"):
        Reference.parse(text)


def test_a_host_folder_may_have_a_colon_in_its_name(tmp_path: Path) -> None:
    (tmp_path / "a:b").mkdir()
    assert Folder.parse(f"{tmp_path}/a:b:/srv").host == tmp_path / "a:b"


def test_the_function_returns_the_manifests_digest(module: Path, tmp_path: Path) -> None:
    digest = pack_image(module, Reference.parse("app"), tmp_path / "image.tar")
    assert Archive(tmp_path / "image.tar").index["manifests"][0]["digest"] == digest
