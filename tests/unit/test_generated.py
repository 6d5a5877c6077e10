"""The generated code is what the ``.proto`` files say (``make protos``)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.protos import FOLDERS, ROOT, generate, sources


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("generated")
    generate(target)
    return target


def generated(root: Path) -> dict[str, str]:
    paths = [path for folder in FOLDERS for path in (root / folder).glob("*_pb2.py*")]
    return {str(path.relative_to(root)): path.read_text() for path in paths}


def test_no_file_is_missing_or_left_over(fresh: Path) -> None:
    assert sources()
    assert generated(ROOT).keys() == generated(fresh).keys()


@pytest.mark.parametrize("source", sources())
def test_a_file_is_as_its_source_says(fresh: Path, source: str) -> None:
    for ending in ("_pb2.py", "_pb2.pyi"):
        name = source.removesuffix(".proto") + ending
        assert generated(ROOT)[name] == generated(fresh)[name], f"{name} is stale: run make protos"
