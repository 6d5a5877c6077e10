"""What a guest writes into its log: any bytes, in any pieces, are lines of JSON with just these bytes in them.

The first byte says how the rest is cut, the second how large a file of the log may be.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from workers.container_log import JsonFile
from workers.logger import PIECE, Stream

WORDS = (b"\n", b'"', b"\\", b"\xe2\x80\xa8", b"\xf0\x9f\x98\x80", b"\xed\xa0\x80", b"\x1b[0m", b"\0", b"\xff" * 40)
MOST = 65536


def run(data: bytes) -> None:
    if len(data) < 2:
        return
    step, most, data = 1 + data[0] * len(data) // 256, data[1] * 64, data[2:]
    stream = Stream("stdout", -1, None)  # type: ignore[arg-type]
    pieces: list[tuple[str, bytes]] = []
    for at in range(0, len(data), step):
        pieces += stream.cut(data[at : at + step])
        assert len(stream.rest) <= PIECE
    if stream.rest:
        pieces.append((stream.name, stream.rest))
    assert b"".join(text for _, text in pieces) == data
    assert all(len(text) <= PIECE + 1 for _, text in pieces)
    assert all(text.endswith(b"\n") or len(text) >= PIECE - 3 for _, text in pieces[:-1])
    _write(pieces, most)


def _write(pieces: list[tuple[str, bytes]], most: int) -> None:
    with tempfile.TemporaryDirectory(prefix="fuzz-log-") as folder:
        log = JsonFile(os.open(folder, os.O_RDONLY | os.O_DIRECTORY), b"log", most, 3)
        try:
            for at in range(0, len(pieces), 5):
                log.write(pieces[at : at + 5])
        finally:
            log.close()
        assert set(os.listdir(folder)) <= {"log", "log.1", "log.2"}
        lines: list[bytes] = []
        for name in ("log.2", "log.1", "log"):
            path = Path(folder, name)
            content = path.read_bytes() if path.exists() else b""
            assert not content or content.endswith(b"\n")
            here = content.split(b"\n")[:-1]
            assert not most or len(content) <= most or len(here) == 1
            lines += here
    texts = [text.decode(errors="replace") for _, text in pieces]
    found = [json.loads(line) for line in lines]
    assert [each["log"] for each in found] == texts[len(texts) - len(found) :]
    assert most or len(found) == len(texts)
    assert {each["stream"] for each in found} <= {"stdout"}
