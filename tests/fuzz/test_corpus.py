"""The fuzzer's corpus holds, the fuzzer itself finds what is wrong, and every parser of others' bytes has a target."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from .json_mutation import VALUES, mutator
from .target import EVERY_COMMIT, HERE, Broken, Target, corpus, names, of_turn

INPUTS = [(name, path) for name in names() for path in corpus(name)]


@pytest.mark.parametrize(("name", "path"), INPUTS, ids=[f"{name}-{path.name}" for name, path in INPUTS])
def test_input_holds(name: str, path: Path) -> None:
    Target(name).run(path.read_bytes())


def test_every_target_has_inputs_and_every_input_a_target() -> None:
    assert {path.name for path in (HERE / "corpus").iterdir()} == set(names())
    assert all(len(corpus(name)) >= 3 for name in names())
    assert all(path.stat().st_size <= Target(name).most for name, path in INPUTS)


def test_all_have_their_turn_in_ci() -> None:
    turns = [of_turn(names(), 2, commits) for commits in range(100, 106)]
    assert all(set(EVERY_COMMIT) < set(turn) and len(turn) == len(EVERY_COMMIT) + 2 for turn in turns)
    assert {name for turn in turns for name in turn} == set(names())
    assert of_turn(["ttrpc"], 2, 7) == ["ttrpc"]


def write(folder: Path, body: str) -> str:
    """A target of its own; its name."""
    (folder / "planted").mkdir()
    (folder / "planted/__init__.py").touch()
    (folder / "planted/fault.py").write_text(textwrap.dedent(body))
    return "planted.fault"


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("import os\ndef run(data): left.append(os.dup(2))\nleft = []", "a descriptor was left open"),
        ("import os\ndef run(data): os.close(int(data))", "one was closed"),
        (
            "import time\ndef run(data):\n    end = time.thread_time() + 1.5\n    while time.thread_time() < end: pass",
            "of processor time",
        ),
    ],
)
def test_what_no_run_may_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, what: str) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("planted", "planted.fault"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    target = Target(write(tmp_path, body))
    another = os.dup(2)
    with pytest.raises(Broken, match=what):
        target.run(b"%d" % another)
    if "one was closed" not in what:
        os.close(another)
    for fd in getattr(sys.modules["planted.fault"], "left", []):
        os.close(fd)


def test_changes_to_json_leave_it_json(monkeypatch: pytest.MonkeyPatch) -> None:
    import types

    monkeypatch.setitem(sys.modules, "atheris", types.SimpleNamespace(Mutate=lambda data, most: b"mutated"))
    mutate = mutator(("key", "other"))
    first = b'{"a": [1, 2, {"b": null}], "c": {"d": "text", "e": 1.5}, "f": true}'
    before = repr(VALUES)
    found = {mutate(first, 4096, seed) for seed in range(300)} - {b"mutated"}
    assert len(found) > 150
    for each in found:
        json.loads(each.decode(errors="surrogatepass"))
        assert len(each) <= 4096
    assert repr(VALUES) == before


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this Python")
def test_a_planted_fault_is_found(tmp_path: Path) -> None:
    """Coverage leads to it: four bytes one after the other, each in a branch of its own."""
    body = """
        from workers import protocol
        def run(data):
            fields = protocol.unpack_tagged(data) if len(data) % 7 == 0 else {}
            assert b"x" not in fields.values()
    """
    name = write(tmp_path, body.replace("protocol.unpack_tagged(data)", "decode(data)") + DECODE)
    command = [sys.executable, "-m", "tests.fuzz.child", name, "-max_total_time=60", "-seed=1"]
    root = str(HERE.parent.parent)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{root}"}
    done = subprocess.run(
        [*command, f"-artifact_prefix={tmp_path}/"], cwd=root, env=environment, capture_output=True, text=True
    )
    (fault,) = tmp_path.glob("crash-*")
    assert "AssertionError" in done.stdout + done.stderr
    assert b"x" in fault.read_bytes()


DECODE = """
        def decode(data):
            try:
                return protocol.unpack_tagged(data)
            except protocol.ProtocolError:
                return {}
"""
