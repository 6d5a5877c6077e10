"""Documents name files and tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "packaging/README.md",
    *(f"docs/{path.name}" for path in ROOT.glob("docs/*.md")),
)
PATH = re.compile(r"`((?:[\w.-]+/)+[\w.-]*)`")
CLAIM = re.compile(r"`([\w/.]*)::(test_\w+)`")
OURS = {path.name for path in ROOT.iterdir() if path.is_dir()}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_named_files_exist(document: str) -> None:
    text = (ROOT / document).read_text()
    named = {
        path for path in PATH.findall(text) if path.split("/")[0] in OURS - {"dist", ".cache"} and "NAME" not in path
    }
    assert {path for path in named if not (ROOT / path).exists()} == set()


def test_tables_name_functions_of_their_files() -> None:
    rows = re.findall(r"\| `([\w/]+\.py)` \| (`\w+`(?:, `\w+`)*) \|", (ROOT / "docs/architecture.md").read_text())
    assert len(rows) > 12
    missing = [
        f"{name} of {file}"
        for file, names in rows
        for name in re.findall(r"\w+", names)
        if f"def {name}(" not in (ROOT / file).read_text()
    ]
    assert missing == []


def test_pictures_have_no_semicolon_in_a_message() -> None:
    """To Mermaid it ends a statement, and the picture is none."""
    pictures = re.findall(
        r"```mermaid\nsequenceDiagram\n(.*?)```", (ROOT / "docs/architecture.md").read_text(), re.DOTALL
    )
    assert pictures
    assert [line for picture in pictures for line in picture.splitlines() if ";" in line] == []


def test_security_claims_name_tests_that_exist() -> None:
    last = ""
    claims = CLAIM.findall((ROOT / "docs/security.md").read_text())
    missing = []
    for file, test in claims:
        last = file or last
        path = ROOT / "tests" / last if last.startswith("unit/") else ROOT / "tests/integration" / last
        if not path.exists() or f"def {test}(" not in path.read_text():
            missing.append(f"{last}::{test}")
    assert claims
    assert missing == []


def test_clients_names_tests_that_exist() -> None:
    defined = {
        name for path in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs/clients.md").read_text()))
    assert named
    assert named - defined == set()


def test_readme_lists_the_folders() -> None:
    listed = set(re.findall(r"^\| `(\w+)/` \|", (ROOT / "README.md").read_text(), re.MULTILINE))
    ignored = {line.strip("/\n") for line in (ROOT / ".gitignore").read_text().splitlines()}
    there = {name for name in OURS if not name.startswith(".") and not name.endswith(".egg-info")}
    assert listed == there - ignored


def test_commands_of_contributing_find_tests() -> None:
    commands = re.findall(r"(tests/[\w./]*) -k (\w+)", (ROOT / "CONTRIBUTING.md").read_text())
    assert len(commands) > 2
    for where, word in commands:
        path = ROOT / where
        files = [path] if path.is_file() else path.rglob("test_*.py")
        names = [name for file in files for name in (file.name, *re.findall(r"def (test_\w+)", file.read_text()))]
        assert any(word in name for name in names), f"{where} -k {word}"
