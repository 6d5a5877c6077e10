"""The compilers: apart from everything, and what they cannot do costs nobody anything; ``warm``."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from supervisor.commands.pack import Reference, pack_image
from workers.compiler import NOBODY

from ..harness import modules
from ..harness.compiled import LEVELS, Node, until, warm
from ..harness.daemon import Daemon
from ..harness.helpers import gone

# What the compiler cannot do


def test_a_time_out_is_remembered(start: Callable[..., Node]) -> None:
    node = start("--aot", "always", "--aot-timeout", "0.001", "--engine", "wasmedge")
    module = modules.exits(3)
    for _ in range(3):
        assert node.run(module) == 3
    until("given up", lambda: node.compiled("O2"))
    assert [node.compiled(level) for level in LEVELS] == [1, 1]
    assert "timed out: it takes more than 0.001 s" in node.daemon.log_text()
    again = start("--aot", "always", "--aot-timeout", "0.001", "--engine", "wasmedge", like=node)
    assert again.run(module) == 3
    assert [again.compiled(level) for level in LEVELS] == [0, 0]
    patient = start("--aot", "always", "--aot-timeout", "60", like=node)
    assert patient.run(module) == 3
    assert node.products()


def test_a_lack_of_memory_is_remembered(start: Callable[..., Node]) -> None:
    module = modules.laborious(200)
    node = start("--aot", "always", "--aot-memory", "4M", "--engine", "wasmedge")
    for _ in range(2):
        assert node.run(module) == 0
    until("given up", lambda: node.compiled("O2"))
    assert [node.compiled(level) for level in LEVELS] == [1, 1]
    assert "out of memory: it needs more than 4 MiB" in node.daemon.log_text()
    assert node.products() == []


def test_a_crash_is_remembered(start: Callable[..., Node], tmp_path: Path) -> None:
    node = start("--aot", "auto")
    path = tmp_path / "loops.wasm"
    path.write_bytes(modules.loops(400))
    done = warm(node, path, stack=128)  # the compiler's recursion does not fit
    assert done.stdout == f"{path}: compiled for WasmEdge (O0); O2 crashed: signal 11\n"
    assert done.returncode == 0
    container = node.pod.with_wasm(path).build().start()
    assert container.wait() == 0
    assert warm(node, path).stdout == done.stdout
    assert [node.compiled(level) for level in LEVELS] == [0, 0]
    assert node.product(path.read_bytes(), "O0")


def test_a_compiler_that_is_killed_costs_nobody_anything(auto: Node) -> None:
    module = modules.laborious(1000)  # half a minute at O2
    auto.pod.with_wasm(module).build()
    until("the better level", lambda: auto.product(module, "O0") and auto.compilers())
    for compiler in auto.compilers():
        compiler.kill()
    until("given up", lambda: "unable: it was killed" in auto.daemon.log_text())
    assert auto.run(module) == 0
    assert auto.compilers() == []


# Confinement


def test_the_compiler_has_no_privilege_and_sees_nothing(auto: Node) -> None:
    module = modules.laborious(1000)
    auto.pod.with_wasm(module).build()
    until("the better level", lambda: auto.product(module, "O0") and auto.compilers())
    [compiler] = auto.compilers()
    proc = Path(f"/proc/{compiler.pid}")
    until("confined", lambda: "Seccomp:\t2" in (proc / "status").read_text())
    status = dict(line.split(":\t", 1) for line in (proc / "status").read_text().splitlines() if ":\t" in line)
    assert status["Uid"].split() == status["Gid"].split() == [str(NOBODY)] * 4
    assert status["Groups"].split() == []
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == "1"
    mounts = (proc / "mountinfo").read_text().splitlines()
    assert [line.split(" - ")[1].split()[0] for line in mounts] == ["tmpfs"]
    assert os.listdir(proc / "root") == []
    for space in ("net", "mnt", "ipc", "pid", "uts"):
        assert os.readlink(proc / "ns" / space) != os.readlink(f"/proc/self/ns/{space}")
    assert (proc / "oom_score_adj").read_text() == "1000\n"
    assert (compiler.nice(), os.sched_getscheduler(compiler.pid)) == (19, os.SCHED_IDLE)
    others = [each for each in (proc / "fd").iterdir() if not each.samefile(proc / "root")]
    opened = {os.readlink(each) for each in others}
    assert all(each.startswith("pipe:") or each.endswith("(deleted)") for each in opened), opened


@pytest.mark.parametrize("way", [Daemon.stop, Daemon.kill], ids=["stopped", "killed"])
def test_with_the_sandboxer_its_compilers_end(start: Callable[..., Node], way: Callable[[Daemon], object]) -> None:
    node = start("--aot", "auto")
    module = modules.laborious(1000)
    node.pod.with_wasm(module).build()
    until("the better level", lambda: node.product(module, "O0") and node.compilers())
    compilers = node.compilers()
    parents = [compiler.parent() for compiler in compilers]
    way(node.daemon)
    for process in (*compilers, *parents):
        assert process is not None
        until("its end", partial(gone, process), 5)
    assert [path.suffix for path in node.cache.glob("*/*")] == [".so"]


def test_a_cache_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "noexec,mode=700", "tmpfs", str(folder)], check=True)
    try:
        said = f"cache {folder}: its file system is mounted noexec: .*--aot never"
        with pytest.raises(AssertionError, match=said), Daemon("--cache-dir", str(folder)):
            pass
        with Daemon("--cache-dir", str(folder), "--aot", "never"):
            pass
    finally:
        subprocess.run(["umount", str(folder)], check=True)


# warm


def test_warm_compiles_modules_and_the_programs_of_images(auto: Node, tmp_path: Path) -> None:
    files = []
    for status in (3, 5):
        path = tmp_path / f"exits{status}.wasm"
        path.write_bytes(modules.exits(status))
        files.append(path)
    image = tmp_path / "image.tar"
    pack_image(files[1], Reference.parse("app"), image)
    done = warm(auto, files[0], image)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.splitlines()) == [
        f"{files[0]}: compiled for WasmEdge (O2)",
        f"{image}: /exits5.wasm: compiled for WasmEdge (O2)",
    ]
    products = [(path, path.stat().st_mtime_ns) for path in auto.products()]
    assert len(products) == 2
    again = warm(auto, files[0], image)  # lines come as each is done
    assert sorted(again.stdout.splitlines()) == sorted(done.stdout.splitlines())
    assert auto.run(modules.exits(3)) == 3  # a sandboxer that runs already finds it, too
    assert auto.run(modules.exits(5)) == 5
    assert [(path, path.stat().st_mtime_ns) for path in auto.products()] == products
    assert [auto.compiled(level) for level in LEVELS] == [0, 0]


def test_warm_says_what_it_cannot_compile(auto: Node, tmp_path: Path) -> None:
    names = ("fine.wasm", "broken.wasm", "nonsense", "absent")
    fine, broken, nonsense, absent = (tmp_path / name for name in names)
    fine.write_bytes(modules.exits(3))
    broken.write_bytes(modules.MAGIC + b"\1\5nonsense")
    nonsense.write_text("nonsense")
    done = warm(auto, fine, broken, nonsense, absent)
    assert done.returncode == 1
    assert f"{fine}: compiled for WasmEdge (O2)" in done.stdout
    assert f"{broken}: not compiled, and so interpreted; WasmEdge: O0 refused: " in done.stdout
    assert f"{nonsense}: not an image archive" in done.stderr
    assert f"{absent}: No such file or directory" in done.stderr
    assert "Traceback" not in done.stderr
