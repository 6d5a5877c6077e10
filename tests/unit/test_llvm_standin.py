"""The stand-in for libLLVM, made for the real libwasmedge."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from workers.engines.wasmedge import llvm_standin

from ..harness import interpreters

FIND = (
    "from workers.engines.wasmedge import capi, llvm_standin; print(llvm_standin._find(capi.LIBRARY))\n"
    "print(open('/proc/self/maps').read())"
)


@pytest.fixture(scope="module")
def library() -> bytes:
    return Path(interpreters.output(FIND).splitlines()[0]).read_bytes()


def test_the_library_is_found_without_being_loaded() -> None:
    path, *maps = interpreters.output(FIND).splitlines()
    assert Path(path).name.startswith("libwasmedge.so")
    assert not any("libwasmedge" in line for line in maps)
    with pytest.raises(FileNotFoundError):
        llvm_standin._find("libnowhere.so.1")


def test_with_it_libllvm_and_what_that_needs_stay_away() -> None:
    script = (
        "from workers.engines.wasmedge import capi, llvm_standin; llvm_standin.load(capi.LIBRARY)\n"
        "library = capi.load(); print(library.WasmEdge_VersionGet().decode()); print(open('/proc/self/maps').read())"
    )
    said = interpreters.output(script)
    assert said.startswith("0.14.")
    assert "/libwasmedge.so" in said
    assert "/libLLVM" not in said
    assert "libz3" not in said


def test_its_functions_return_zero(library: bytes, tmp_path: Path) -> None:
    path = tmp_path / "standin.so"
    path.write_bytes(llvm_standin.make(library))
    assert b"LLVMBuildIsNull" in path.read_bytes()
    script = "import ctypes; print(ctypes.CDLL(sys.argv[1]).LLVMBuildIsNull())"
    assert interpreters.output(script, str(path)) == "0\n"


def test_libraries_without_libllvm_get_no_standin(library: bytes) -> None:
    libc = next(line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libc.so" in line)
    for content in (Path(libc).read_bytes(), library.replace(b"libLLVM", b"libMVLL"), b"\x7fELF" + bytes(200)):
        with pytest.raises(llvm_standin.Unfit):
            llvm_standin.make(content)


def test_a_damaged_library_does_no_harm(library: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "libwasmedge.so.0"
    monkeypatch.setattr(llvm_standin, "_find", lambda _: str(path))
    loaded: list[str] = []
    monkeypatch.setattr(ctypes, "CDLL", loaded.append)
    for length in (0, 10, 64, 5000, len(library) // 3):
        path.write_bytes(library[:length])
        llvm_standin.load("libwasmedge.so.0")
    assert loaded == []
