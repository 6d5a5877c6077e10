"""An OCI bundle: a folder with a config.json, made by the client. It belongs to the client; it is only read."""

from __future__ import annotations

import errno
import os
from dataclasses import replace

from sandbox_api.errors import InvalidArgument, NotFound

from ..host import errors, linux
from .spec import MAX_BYTES, Spec

_SANDBOX_KEYS = ("io.kubernetes.cri.sandbox-id", "io.kubernetes.cri-o.SandboxID", "cri.sandbox.id")


def read_config(bundle: str) -> bytes:
    """The bytes of the bundle's config.json.

    Raises ``NotFound`` where the folder is missing, ``InvalidArgument`` where the file is, or is unfit.
    """
    if not bundle.startswith("/"):
        raise InvalidArgument(f"bundle {bundle!r} is not an absolute path")
    if not os.path.isdir(bundle):
        raise NotFound(f"bundle {bundle}: no such folder")
    return _read(f"{bundle}/config.json", MAX_BYTES)


def root(bundle: str, path: str) -> str:
    """The root file system's folder, for a ``root.path`` that may be absolute or relative to the bundle.

    Links on its way are not followed yet.
    """
    return os.path.join(bundle, path)


def with_sources(bundle: str, spec: Spec) -> Spec:
    """The spec with absolute sources of its binds: in config.json they may be relative to the bundle (config.md).

    An empty one stays empty.
    """
    if all(bind.source[:1] in ("", "/") for bind in spec.binds):
        return spec
    binds = (replace(bind, source=bind.source and os.path.join(bundle, bind.source)) for bind in spec.binds)
    return replace(spec, binds=tuple(binds))


def sandbox_id(bundle: str, annotations: dict[str, str]) -> str:
    """The sandbox a container says it belongs to: containerd writes a file, CRI an annotation; "" where neither."""
    try:
        written = _read(f"{bundle}/sandbox", 4096).decode(errors="replace").strip()
    except InvalidArgument:
        written = ""
    return written or next((annotations[key] for key in _SANDBOX_KEYS if annotations.get(key)), "")


def _read(path: str, most: int) -> bytes:
    """A regular file of bounded size. What is anything else is never opened: a device, or a FIFO that holds us up."""
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            fd = linux.open_regular(place)
        finally:
            os.close(place)
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise InvalidArgument(f"{path} is not a regular file") from None
        raise errors.for_errno(error, InvalidArgument)(f"{path}: {error.strerror}") from None
    with open(fd, "rb") as file:
        size = os.fstat(fd).st_size
        if size > most:
            raise InvalidArgument(f"{path} has {size} bytes; {most} is the most")
        return file.read(most)
