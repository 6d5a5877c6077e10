"""Imports run one way (docs/architecture.md, "Layers"), and a fork of the forkserver stays small."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
OURS = ("sandbox_api", "supervisor", "workers", "tests")
HEAVY = ["typing", "dataclasses", "enum", "socket", "signal", "tempfile", "re", "asyncio", "json"]


def files(package: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / package).rglob("*.py"))


def imports(file: str) -> Iterator[str]:
    """The modules that a file imports, anywhere in it; a name from a package counts as the package's module."""
    package = list(Path(file).parent.parts)
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            if (ROOT / module.replace(".", "/") / "__init__.py").exists():
                yield from (f"{module}.{alias.name}" for alias in node.names)
            else:
                yield module


def layer(module: str) -> str:
    return module.split(".")[0]


@pytest.mark.parametrize("file", files("sandbox_api"))
def test_the_wire_imports_no_other_layer(file: str) -> None:
    assert {layer(module) for module in imports(file)} & set(OURS) <= {"sandbox_api"}


@pytest.mark.parametrize("file", files("workers"))
def test_workers_import_the_standard_library_alone(file: str) -> None:
    assert {layer(module) for module in imports(file)} <= {"workers", *sys.stdlib_module_names}


# doctor asks the kernel for its Landlock ABI just as a worker would.
BESIDES = {
    "supervisor/commands/doctor.py": {"workers.confinement.landlock"},
    "supervisor/aot/compiler_process.py": {"workers.compile_protocol"},
}


@pytest.mark.parametrize("file", files("supervisor"))
def test_the_supervisor_knows_the_workers_by_their_protocol(file: str) -> None:
    found = set(imports(file))
    known = {
        f"workers{name}"
        for name in ("", ".protocol", ".greeting", ".start_request", ".relay_protocol", ".image_protocol")
    }
    known |= BESIDES.get(file, set())
    assert {module for module in found if layer(module) == "workers"} <= known
    assert "tests" not in map(layer, found)


# From top to bottom; a place is a folder, or a file that is in none. Places of one row may import each other.
SUPERVISOR = (
    ("__main__", "cli", "daemon", "options", "servers"),
    ("services",),
    ("lifecycle",),
    ("commands",),
    ("state",),
    ("images", "aot", "ipc", "model"),
    ("oci", "cgroups", "seccomp"),
    ("host",),
)
WORKERS = (
    ("forkserver", "relay", "logger", "compiler"),
    ("templates",),
    ("zygote",),
    ("worker",),
    ("bare", "failures"),
    ("engines", "images"),
    ("confinement",),
    ("start_request",),
    ("calls", "pumps", "container_log", "helper"),
    ("boot", "greeting", "compile_protocol", "relay_protocol", "image_protocol"),
    ("protocol", "linux"),
)
TABLES = {"supervisor": SUPERVISOR, "workers": WORKERS}


def place(module: str) -> str:
    """The folder or the file in a package that a module belongs to; "" for the package itself."""
    package, *names = module.split(".")
    name = names[0] if names else ""
    return name if (ROOT / package / name).is_dir() or (ROOT / package / f"{name}.py").exists() else ""


@pytest.mark.parametrize("package", TABLES)
def test_every_folder_has_its_row(package: str) -> None:
    """A new folder, or a file beside the folders, is given a row in this test's table."""
    modules = {path.stem for path in (ROOT / package).glob("*.py")} - {"__init__"}
    folders = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
    rows = {name for row in TABLES[package] for name in row}
    assert modules | folders == rows, f"{package}/: give what is new a row in the table above; take out what has gone"


@pytest.mark.parametrize("file", [*files("supervisor"), *files("workers")])
def test_imports_run_down_the_rows(file: str) -> None:
    package = layer(file.replace("/", "."))
    rows = {name: number for number, row in enumerate(TABLES[package]) for name in row}
    here = place(file.removesuffix(".py").replace("/", "."))
    for module in imports(file):
        there = place(module) if layer(module) == package else ""
        if here not in rows or there not in rows:
            continue
        assert rows[there] >= rows[here], (
            f"{file} imports {module}: {package}/{there} stands above {package}/{here}. Move what both need to a row "
            f"below, or hand it over from above as an argument (rows from the top: {TABLES[package]})"
        )


def loaded_by(*modules: str) -> set[str]:
    """The modules that a fresh interpreter has after importing these as a helper does."""
    program = f"import sys; sys.path.insert(0, sys.argv[1]); import {', '.join(modules)}; print(*sys.modules)"
    command = [sys.executable, "-I", "-S", "-c", program, str(ROOT)]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())


@pytest.mark.parametrize("helper", ["workers.forkserver", "workers.relay", "workers.logger"])
def test_a_helper_loads_nothing_heavy(helper: str) -> None:
    loaded = loaded_by(helper)
    assert helper in loaded
    assert loaded & set(HEAVY) == set()
    assert loaded & {"sandbox_api", "supervisor"} == set()


def test_every_worker_module_can_be_loaded_like_that() -> None:
    modules = [file.removesuffix(".py").replace("/", ".") for file in files("workers")]
    loaded = loaded_by(*(module.removesuffix(".__init__") for module in modules))
    assert loaded & set(HEAVY) == set()


MOST_LINES = 400


@pytest.mark.parametrize("package", OURS)
def test_no_file_wants_to_be_two(package: str) -> None:
    """Generated code aside (CONTRIBUTING.md)."""
    written = [file for file in files(package) if "_pb2" not in file]
    assert [file for file in written if len((ROOT / file).read_text().splitlines()) > MOST_LINES] == []
