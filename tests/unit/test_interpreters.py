"""Where helpers' interpreters find libwasmedge, and by whose loader they run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.host import interpreters

BARE = [sys.executable, "-I", "-S"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of ours, empty yet."""
    monkeypatch.delenv(interpreters.VARIABLE, raising=False)
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    monkeypatch.setattr(interpreters, "wasmtime", lambda: None)
    monkeypatch.setattr(interpreters, "OUR_FOLDER", tmp_path / "wasmedge")
    return tmp_path / "wasmedge"


def fill(folder: Path, loader: bool) -> Path:
    """Make it one as install-wasmedge.sh does; its libraries' folder."""
    (folder / "lib").mkdir(parents=True)
    (folder / "lib" / interpreters.LIBRARY).touch()
    if loader:
        (folder / "lib" / "ld-linux-x86-64.so.2").touch()
    return folder / "lib"


def test_without_a_folder_the_host_has_it(folder: Path) -> None:
    assert interpreters.python(engine=True) == (BARE, {})


def test_a_folder_with_a_loader_runs_by_it(folder: Path) -> None:
    library = fill(folder, loader=True)
    command, environment = interpreters.python(engine=True)
    loader = str(library / "ld-linux-x86-64.so.2")
    assert command == [loader, "--library-path", str(library), "--argv0", sys.executable, *BARE]
    assert environment == {interpreters.VARIABLE: str(library / interpreters.LIBRARY)}


def test_a_folder_without_a_loader_is_searched_by_the_hosts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/own")
    library = fill(folder, loader=False)
    command, environment = interpreters.python(engine=True)
    assert (command, environment["LD_LIBRARY_PATH"]) == (BARE, f"{library}:/own")


def test_helpers_without_an_engine_use_the_hosts_libraries(folder: Path) -> None:
    fill(folder, loader=True)
    assert interpreters.python(engine=False) == (BARE, {})
    assert interpreters.helper("relay", "socket")[0][:3] == BARE
    assert interpreters.helper("forkserver", "socket")[0][0] != sys.executable


def test_a_named_library_comes_before_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fill(folder, loader=True)
    monkeypatch.setenv(interpreters.VARIABLE, "/opt/libwasmedge.so.0")
    assert interpreters.python(engine=True) == (BARE, {interpreters.VARIABLE: "/opt/libwasmedge.so.0"})
    named = fill(tmp_path / "named", loader=False)
    monkeypatch.setenv(interpreters.VARIABLE, str(tmp_path / "named"))
    assert interpreters.python(engine=True)[1][interpreters.VARIABLE] == str(named / interpreters.LIBRARY)


def test_install_wasmedge_refuses_a_named_one_that_does_not_load(tmp_path: Path) -> None:
    script = interpreters.__file__.partition("supervisor")[0] + "packaging/install-wasmedge.sh"
    (tmp_path / "lib.so").write_text("not a library")
    environment = {interpreters.VARIABLE: str(tmp_path / "lib.so"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([script, tmp_path / "made", sys.executable], env=environment, capture_output=True, text=True)
    assert (done.returncode, "no fit libwasmedge" in done.stderr) == (1, True)
    assert not (tmp_path / "made").exists()
