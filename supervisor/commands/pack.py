"""``wasm-sandboxer pack``: a container image out of a module, without a registry or a builder.

The archive is an OCI image layout with ``docker save``'s manifest.json beside it, as docker itself writes
both: containerd, podman and nerdctl read the first, iSulad and older dockers the second. Equal input makes
an equal archive, so times and owners are zero, modes are 0755 or 0644, and the layer is not compressed
(zlib's output is not the same everywhere).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import platform
import re
import stat
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import click

from .progress import waiting

EPOCH = "1970-01-01T00:00:00Z"  # iSulad refuses an image, or a history entry, without a time
MODULE = b"\0asm\x01\0\0\0"
COMPONENT = b"\0asm\x0d\0\x01\0"  # component-model Binary.md, "preamble"

# Go's names (GOARCH, GOARM), by uname's
ARCHITECTURES = {
    "x86_64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armv7l": ("arm", "v7"),
    "riscv64": ("riscv64", ""),
    "ppc64le": ("ppc64le", ""),
    "s390x": ("s390x", ""),
    "loongarch64": ("loong64", ""),
}

# distribution/reference, "Grammar"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH_AND_TAG = re.compile(rf"({_COMPONENT}(?:/{_COMPONENT})*)(?::(\w[\w.-]{{0,127}}))?", re.ASCII)
_DOMAIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Reference:
    """An image's name in full: ``domain/path:tag``."""

    domain: str
    path: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read a name as docker does: ``app`` is ``docker.io/library/app:latest``. UsageError if it is none."""
        head, slash, rest = text.partition("/")
        if not slash or not (set(head) & {".", ":"} or head == "localhost" or head != head.lower()):
            head, rest = "docker.io", text
        match = _PATH_AND_TAG.fullmatch(rest)
        if match is None or not _DOMAIN.fullmatch(head) or len(text) > 255:
            raise click.UsageError(
                f"{text!r} is no image name: write [registry/]name[:tag], the name in lower case, without a digest"
            )
        path, tag = match.groups(default="latest")
        if head in ("docker.io", "index.docker.io"):
            head, path = "docker.io", path if "/" in path else f"library/{path}"
        return cls(head, path, tag)

    def __str__(self) -> str:
        return f"{self.domain}/{self.path}:{self.tag}"

    @property
    def familiar(self) -> str:
        """The name as ``docker save`` writes it: without docker.io and library."""
        return str(self).removeprefix("docker.io/").removeprefix("library/")


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of this machine and where its content goes in the image."""

    host: Path
    guest: PurePosixPath

    @classmethod
    def parse(cls, text: str) -> Folder:
        """Read ``HOST:GUEST``. UsageError if that is not what it is."""
        host, colon, guest = text.rpartition(":")
        if not (host and colon and guest.startswith("/")):
            raise click.UsageError(f"--dir {text}: write HOST:GUEST, with GUEST an absolute path, as in site:/srv")
        if ".." in guest.split("/"):
            raise click.UsageError(f"--dir {text}: GUEST has '..' in it; name the place itself")
        if not Path(host).is_dir():
            raise click.UsageError(f"--dir {text}: {host} is not a folder here")
        return cls(Path(host), PurePosixPath("/" + guest.lstrip("/")))


def pack_image(
    module: Path,
    name: Reference,
    output: Path,
    args: Sequence[str] = (),
    env: Sequence[str] = (),
    folders: Sequence[Folder] = (),
) -> str:
    """Write the image archive ``output`` and return the manifest's digest. ClickException says what is wrong.

    The file appears whole or not at all.
    """
    _check_module(module)
    for folder in folders:
        if output.resolve().is_relative_to(folder.host.resolve()):
            raise click.ClickException(
                f"{output} lies in {folder.host}, which is to be packed: write the image somewhere else"
            )
    with _replacing(output, "layer") as layer:
        diff_id, size = _write_layer(layer, _tree(module, folders), module)
        layer.seek(0)
        config = _config(module, args, env, diff_id)
        manifest = _manifest(config, diff_id, size)
        digest = _digest(manifest)
        with _replacing(output) as image, tarfile.open(fileobj=image, mode="w", format=tarfile.PAX_FORMAT) as archive:
            _add(archive, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
            _add(archive, _blob(digest), manifest)
            _add(archive, _blob(_digest(config)), config)
            archive.addfile(_member(_blob(diff_id), size=size), layer)
            _add(archive, "index.json", _index(name, digest, len(manifest)))
            saved = [{"Config": _blob(_digest(config)), "RepoTags": [name.familiar], "Layers": [_blob(diff_id)]}]
            _add(archive, "manifest.json", _json(saved))
    return digest


def _check_module(module: Path) -> None:
    try:
        with module.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise click.ClickException(f"{module}: {error.strerror or error}") from None
    if head == COMPONENT:
        raise click.ClickException(f"{module} is a component, not a core module: build it for wasm32-wasip1")
    if head != MODULE:
        begins = f"begins with {head[:4]!r}" if head else "is empty"
        raise click.ClickException(f"{module} is not a WebAssembly module ({begins}): build it for wasm32-wasip1")


# The layer


def _tree(module: Path, folders: Sequence[Folder]) -> dict[str, Path | None]:
    """Names in the image, without the leading slash, and what lies there; None is a folder."""
    tree: dict[str, Path | None] = {module.name: module}
    for folder in folders:
        _put(tree, folder.guest.relative_to("/"), None)
        for parent, names, files in os.walk(folder.host, onerror=_unreadable):
            inside = folder.guest.relative_to("/") / Path(parent).relative_to(folder.host)
            for entry in names + files:
                path = Path(parent, entry)
                _put(tree, inside / entry, None if path.is_dir() and not path.is_symlink() else path)
    return tree


def _put(tree: dict[str, Path | None], name: PurePosixPath, source: Path | None) -> None:
    for place, what in ((name, source), *((parent, None) for parent in name.parents)):
        if place == PurePosixPath("."):
            continue
        if tree.setdefault(str(place), what) != what:
            raise click.ClickException(f"two things would lie at /{place} in the image: give one another place")


def _unreadable(error: OSError) -> None:
    raise click.ClickException(f"{error.filename}: {error.strerror}")


def _write_layer(layer: io.BufferedRandom, tree: dict[str, Path | None], module: Path) -> tuple[str, int]:
    """Write the layer; its digest and its size in bytes."""
    with tarfile.open(fileobj=layer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted(tree):
            source = tree[name]
            if source is None:
                archive.addfile(_member(name, type=tarfile.DIRTYPE, mode=0o755))
            else:
                _add_file(archive, name, source, source is module)
    layer.seek(0)
    digest = hashlib.file_digest(layer, "sha256")
    return f"sha256:{digest.hexdigest()}", layer.tell()


def _add_file(archive: tarfile.TarFile, name: str, source: Path, program: bool) -> None:
    try:
        if source.is_symlink() and not program:  # the module itself may be named through a link
            archive.addfile(_member(name, type=tarfile.SYMTYPE, mode=0o777, linkname=os.readlink(source)))
            return
        if not source.is_file():
            raise click.ClickException(f"{source} is neither a file, a folder nor a link: an image cannot hold it")
        with source.open("rb") as file:
            status = os.fstat(file.fileno())
            mode = 0o755 if program or status.st_mode & stat.S_IXUSR else 0o644
            archive.addfile(_member(name, size=status.st_size, mode=mode), file)
    except OSError as error:
        raise click.ClickException(f"{source}: {error.strerror or error}") from None


# The documents


def _config(module: Path, args: Sequence[str], env: Sequence[str], diff_id: str) -> bytes:
    return _json(
        {
            **_platform(),
            "created": EPOCH,
            "config": {"Entrypoint": [f"/{module.name}", *args], "Env": list(env), "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
            "history": [{"created": EPOCH, "created_by": "wasm-sandboxer pack"}],
        }
    )


def _manifest(config: bytes, diff_id: str, size: int) -> bytes:
    kind = "application/vnd.oci.image"
    return _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{kind}.manifest.v1+json",
            "config": {
                "mediaType": f"{kind}.config.v1+json",
                "digest": _digest(config),
                "size": len(config),
            },
            "layers": [{"mediaType": f"{kind}.layer.v1.tar", "digest": diff_id, "size": size}],
        }
    )


def _index(name: Reference, digest: str, size: int) -> bytes:
    kind = "application/vnd.oci.image"
    described = {
        "mediaType": f"{kind}.manifest.v1+json",
        "digest": digest,
        "size": size,
        # containerd and podman go by the first; the second is a bare tag, as docker writes it
        "annotations": {"io.containerd.image.name": str(name), "org.opencontainers.image.ref.name": name.tag},
        "platform": _platform(),
    }
    return _json({"schemaVersion": 2, "mediaType": f"{kind}.index.v1+json", "manifests": [described]})


def _platform() -> dict[str, str]:
    machine = platform.machine()
    architecture, variant = ARCHITECTURES.get(machine, (machine, ""))
    found = {"os": "linux", "architecture": architecture}
    return {**found, "variant": variant} if variant else found


# Files


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _blob(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def _member(
    name: str, size: int = 0, type: bytes = tarfile.REGTYPE, mode: int = 0o644, linkname: str = ""
) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)  # owner, group and time are 0 already
    info.size, info.type, info.mode, info.linkname = size, type, mode, linkname
    return info


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    archive.addfile(_member(name, size=len(data)), io.BytesIO(data))


@contextlib.contextmanager
def _replacing(output: Path, part: str = "") -> Iterator[io.BufferedRandom]:
    """A new file beside ``output`` that takes its place at the end; with ``part``, one that just goes away."""
    path = output.with_name(f".{output.name}.{part or 'new'}.{os.getpid()}")
    try:
        with path.open("xb+") as file:
            yield file
        if not part:
            path.replace(output)
    except OSError as error:
        raise click.ClickException(f"writing {output}: {error.strerror or error}") from None
    finally:
        path.unlink(missing_ok=True)


# The command


def _environment(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if value.find("=") < 1:
            raise click.UsageError(f"--env {value}: write NAME=VALUE")
    return values


@click.command()
@click.argument("module", metavar="APP.WASM", type=click.Path(path_type=Path))
@click.option("-t", "--tag", "name", required=True, metavar="NAME[:TAG]", help="The image's name.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The archive to write.")
@click.option("--arg", "args", multiple=True, help="An argument for the module; may be given again.")
@click.option(
    "--env",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_environment,
    help="An environment variable; may be given again.",
)
@click.option("--dir", "folders", multiple=True, metavar="HOST:GUEST", help="A folder to put into the image at GUEST.")
def pack(
    module: Path, name: str, output: Path, args: tuple[str, ...], env: tuple[str, ...], folders: tuple[str, ...]
) -> None:
    """Make a container image archive out of a WebAssembly module.

    Load it with 'ctr -n k8s.io images import', 'isula load -i', 'docker load -i' or 'podman load -i'.

    \b
    Example:
      wasm-sandboxer pack app.wasm -t app:1 -o app.tar --arg --verbose
    """
    reference = Reference.parse(name)
    with waiting(f"packing {output}"):
        digest = pack_image(module, reference, output, args, env, [Folder.parse(folder) for folder in folders])
    click.echo(f"{output}: {reference}@{digest}")
