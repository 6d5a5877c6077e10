"""A pod as CRI configures it: any bytes are files that say just what was asked for, and sysctls of its own, or refused.

What is in them is read by guests and by the C library's resolver.
"""

from __future__ import annotations

from google.protobuf.any_pb2 import Any

from sandbox_api.convert import pod_config
from sandbox_api.errors import InvalidArgument
from supervisor.model.registry import check_id
from supervisor.oci import netns, pod_files, sysctls

from ..values import check, check_text

WORDS = (
    b"net.ipv4.ip_forward",
    b"net/ipv4/../../kernel/x",
    b"ndots:5",
    b"fe80::1%eth0",
    b"\n",
    b"\0",
    b"/proc/1/ns/net",
)


def run(data: bytes) -> None:
    _id(data)
    try:
        config = pod_config(Any(type_url="type.googleapis.com/runtime.v1.PodSandboxConfig", value=data))
    except InvalidArgument:
        return
    assert config is not None
    check(config)
    try:
        text = pod_files._resolv_conf(config)
    except InvalidArgument as error:
        check_text(error)
    else:
        _read(text, config.servers, config.searches, config.options)
    try:
        name = pod_files._hostname(config)
    except InvalidArgument:
        pass
    else:
        assert not set(name) & set("\n\0 /\t")
    try:
        paths = sysctls.check(config.sysctls, "/run/netns/x")
    except InvalidArgument as error:
        check_text(error)
    else:
        for path, value in paths.items():
            assert path.startswith("net/")
            assert not {"", ".", ".."} & set(path.split("/"))
            value.encode()
            assert "\0" not in path + value


def _read(text: str, servers: tuple[str, ...], searches: tuple[str, ...], options: tuple[str, ...]) -> None:
    """The file as resolv.conf(5) has it read."""
    found: dict[str, list[str]] = {"nameserver": [], "search": [], "options": []}
    for line in text.splitlines():
        keyword, *words = line.split()
        found[keyword] += words
    assert text.isascii()
    assert found == {"nameserver": [*servers], "search": [*searches], "options": [*options]}


def _id(data: bytes) -> None:
    """The same bytes as an id, and as the path of a network namespace."""
    text = data.decode(errors="replace")
    try:
        assert check_id("container", text) == text
    except InvalidArgument as error:
        check_text(error)
    else:
        assert text not in (".", "..")
        assert not set(text) & set("/\0\n")
        assert len(text.encode()) <= 128
    assert netns.process_of(text) >= 0
