"""The annotations that place a container's log: any strings are a log that can be asked for, or refused."""

from __future__ import annotations

import json

from sandbox_api.errors import InvalidArgument
from supervisor.oci import container_log
from workers import protocol

from ..json_mutation import mutator
from ..values import check_text

_NAMES = ("driver", "file", "filesize", "filerotate", "tag", "facility")
KEYS = tuple(f"log.console.{name}" for name in _NAMES)
WORDS = (*(key.encode() for key in KEYS), b"json-file", b"syslog", b"none", b"1MiB", b"local7")
mutate = mutator(KEYS)


def run(data: bytes) -> None:
    try:
        asked = json.loads(data)
        annotations = {key: str(value) for key, value in asked.items()}
        json.dumps(annotations, ensure_ascii=False).encode()  # as config.json's are, or it is refused
    except (ValueError, RecursionError, AttributeError):
        return
    try:
        log = container_log.parse(annotations, "0123456789abcdef")
    except InvalidArgument as error:
        check_text(error)
        return
    if log is None:
        return
    numbers, name = container_log.encode(log)
    assert protocol.unpack_numbers(protocol.pack_numbers(*numbers)) == tuple(numbers)
    assert name
    if isinstance(log, container_log.JsonLog):
        assert b"/" not in name
        assert b"\0" not in name
        assert name not in (b".", b"..")
        assert log.most_bytes == 0 or log.most_bytes >= 1 << 16
        assert 1 <= log.most_files <= 100
        try:
            fd = container_log.open_folder(log, "0123456789abcdef")
        except InvalidArgument:
            return
        raise AssertionError(f"a log in a folder of somebody else's: {log.path!r} (descriptor {fd})")
    assert 0 <= log.facility < 24
