"""Compiled modules: made once, apart from everything, and run where they are there."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from sandbox_api.errors import InvalidArgument
from sandbox_api.proto import task_pb2 as pb
from supervisor.pack import Reference, pack_image
from workers.compiler import NOBODY

from ..harness import modules
from ..harness.container import Container, Pod
from ..harness.daemon import ROOT, Daemon
from ..harness.guests import guest

ROUNDS = 2_000_000
LEVELS = ("O0", "O2")


def until(what: str, condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait for what comes about by itself."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.01)


class Node:
    """A sandboxer and a pod on it, with a look into its cache."""

    def __init__(self, daemon: Daemon, cache: Path) -> None:
        self.daemon = daemon
        self.cache = cache
        self.pod = Pod(daemon)

    def products(self) -> list[Path]:
        return sorted(self.cache.glob("*/*.so"))

    def product(self, module: bytes, level: str) -> Path | None:
        name = f"{hashlib.sha256(module).hexdigest()}.{level}.so"
        return next((path for path in self.products() if path.name == name), None)

    def compiled(self, level: str) -> int:
        """How often something has been compiled at this level."""
        return len(re.findall(rf"compiled \S+ at {level}|not compiled: \S+ at {level}", self.daemon.log_text()))

    def wait_compiled(self, module: bytes) -> None:
        until("compiled", lambda: self.product(module, "O2"))

    def run(self, module: bytes, *args: str) -> int:
        return self.pod.with_wasm(module).args(*args).build().start().wait()

    def cells(self) -> list[psutil.Process]:
        """The processes that compile."""
        assert self.daemon.process is not None
        found = []
        for process in psutil.Process(self.daemon.process.pid).children(recursive=True):
            try:
                if process.uids().real == NOBODY and "compiler" in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.NoSuchProcess:
                pass
        return found

    def close(self) -> None:
        self.pod.shutdown()
        self.pod.close()


@pytest.fixture
def start() -> Iterator[Callable[..., Node]]:
    """Start sandboxers with these options, on a cache of their own or on another's."""
    nodes: list[Node] = []
    with ExitStack() as daemons:

        def begin(*options: str, like: Node | None = None) -> Node:
            daemon = Daemon(*options, *(("--cache-dir", str(like.cache)) if like else ()))
            nodes.append(Node(daemons.enter_context(daemon), like.cache if like else daemon.cache))
            return nodes[-1]

        yield begin
        for node in nodes:
            if node.daemon.process is not None:
                node.close()


@pytest.fixture
def auto(start: Callable[..., Node]) -> Node:
    return start("--aot", "auto")


@pytest.fixture
def always(start: Callable[..., Node]) -> Node:
    return start("--aot", "always")


def native(container: Container, node: Node) -> bool:
    """Whether it runs machine code from the cache."""
    return f" {node.cache}/" in Path(f"/proc/{container.pid}/maps").read_text()


def test_a_busy_guest_is_much_faster_once_compiled(auto: Node) -> None:
    module = guest("busy").read_bytes()
    containers, seconds = [], []
    for _ in range(2):
        container = auto.pod.with_wasm(module).args(str(ROUNDS)).build()
        before = time.monotonic()
        assert container.start().wait() == 0
        seconds.append(time.monotonic() - before)
        containers.append(container)
        auto.wait_compiled(module)
    assert containers[0].stdout() == containers[1].stdout() != ""
    assert seconds[0] > 8 * seconds[1]


def test_auto_never_waits(auto: Node) -> None:
    module = modules.laborious(20_000)  # two seconds at O0
    container = auto.pod.with_wasm(module).build().start()
    assert auto.products() == []
    assert container.wait() == 0
    until("compiled", lambda: auto.product(module, "O0"))


def test_always_waits_for_the_first_level(always: Node) -> None:
    container = always.pod.with_wasm("sleep").build().start()
    assert native(container, always)


def test_a_module_is_compiled_before_its_start(auto: Node) -> None:
    module = guest("sleep").read_bytes()
    container = auto.pod.with_wasm(module).build()
    auto.wait_compiled(module)
    assert native(container.start(), auto)


def test_never_compiles_nothing(start: Callable[..., Node]) -> None:
    node = start("--aot", "never")
    container = node.pod.with_wasm("sleep").build().start()
    assert container.status() == "RUNNING"
    assert not node.cache.exists()
    assert "compiled" not in node.daemon.log_text()


@pytest.mark.parametrize("mode", ["auto", "always"])
def test_ten_starts_of_a_new_module_compile_it_once(start: Callable[..., Node], mode: str) -> None:
    node = start("--aot", mode)
    module = guest("exit").read_bytes()
    containers = [node.pod.with_wasm(module).args(str(n)).build() for n in range(10)]
    streams = [each.connection.send("Start", pb.StartRequest(id=each.id)) for each in containers]
    for each, stream in zip(containers, streams, strict=True):
        each.connection.receive(stream, "Start")
    assert [each.wait() for each in containers] == list(range(10))
    node.wait_compiled(module)
    assert [node.compiled(level) for level in LEVELS] == [1, 1]


def test_the_next_sandboxer_finds_what_was_compiled(start: Callable[..., Node]) -> None:
    first = start("--aot", "always")
    module = guest("sleep").read_bytes()
    first.pod.with_wasm(module).build()
    first.wait_compiled(module)
    second = start("--aot", "auto", like=first)
    assert native(second.pod.with_wasm(module).build().start(), first)
    assert [second.compiled(level) for level in LEVELS] == [0, 0]


def test_the_same_file_with_another_content_is_another_module(always: Node) -> None:
    container = always.pod.with_wasm("sleep").build().start()
    path = container.rootfs / "other.wasm"
    for number, status in enumerate((3, 5, 3, 7)):
        path.write_bytes(modules.exits(status))  # in place, and of the same size
        container.add_exec(f"e{number}", "/other.wasm").start(f"e{number}")
        assert container.wait(f"e{number}") == status


def test_ends_are_the_interpreters(always: Node) -> None:
    trap = always.pod.with_wasm("trap").build().start()
    assert (trap.wait(), trap.stderr()) == (134, "wasm trap: unreachable\n")
    for kind, status in (("divide", 134), ("bounds", 134), ("table", 134), ("stack", 134), ("none", 7)):
        assert always.run(guest("conformance_traps").read_bytes(), kind) == status, kind
    function = always.pod.with_wasm("reactor").entry("/app.wasm#greet").build().start()
    assert (function.wait(), function.stdout()) == (0, "greet was called, initialised 1\n")
    with pytest.raises(InvalidArgument, match="exports no function 'absent'"):
        always.pod.with_wasm("reactor").entry("/app.wasm#absent").build().start()
    with pytest.raises(InvalidArgument, match="unknown import"):
        always.pod.with_wasm("missing").build().start()
    limited = always.pod.with_wasm("memory").args("40").linux(resources={"memory": {"limit": 32 << 20}}).build()
    assert limited.start().wait() == 1
    assert limited.stdout() == "refused\n"
    assert {path.name.split(".")[1] for path in always.products()} <= set(LEVELS)


def test_workers_share_the_code(always: Node) -> None:
    containers = [always.pod.with_wasm("sleep").build().start() for _ in range(3)]
    always.wait_compiled(guest("sleep").read_bytes())
    containers = [always.pod.with_wasm("sleep").build().start() for _ in range(3)]
    for container in containers:
        blocks = re.split(r"\n(?=[0-9a-f]+-)", Path(f"/proc/{container.pid}/smaps").read_text())
        [code] = [block for block in blocks if str(always.cache) in block and " r-xp " in block]
        assert re.search(r"\nPrivate_Dirty: +0 kB", code)
        assert re.search(r"\nPrivate_Clean: +0 kB", code)


# What is not run


def test_native_code_in_an_image_is_never_run(start: Callable[..., Node], tmp_path: Path) -> None:
    says, does = modules.exits(5), modules.exits(3)
    universal = modules.false_universal(says, does, tmp_path)
    shared_object = modules.compiled(does, tmp_path, universal=False)
    (tmp_path / "universal.wasm").write_bytes(universal)
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); from workers.wasmedge import *; from workers.protocol import *\n"
        "engine = Engine(); engine.prime(); engine.load(sys.argv[2].encode(), NATIVE, Arguments([], [], 0), [])\n"
        "engine.find(b'_start'); sys.exit(engine.run(True)[0])"
    )
    command = [sys.executable, "-c", script, str(ROOT), str(tmp_path / "universal.wasm")]
    assert subprocess.run(command).returncode == 3  # so it is native code that would be run
    for mode in ("never", "always"):
        node = start("--aot", mode)
        assert node.run(universal) == 5
        if mode == "always":
            node.wait_compiled(universal)
            assert node.run(universal) == 5
        with pytest.raises(InvalidArgument, match="not a WebAssembly module"):
            node.run(shared_object)


def cut(path: Path, _other: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def anothers_product(path: Path, other: Path) -> None:
    path.write_bytes(other.read_bytes())


def not_made_by_us(path: Path, other: Path) -> None:
    path.write_bytes(b"\x7fELF" + bytes(10_000))


def writable(path: Path, _other: Path) -> None:
    path.chmod(0o646)


def linked(path: Path, other: Path) -> None:
    path.unlink()
    path.symlink_to(other)


@pytest.mark.parametrize(
    "damage", [cut, anothers_product, not_made_by_us, writable, linked], ids=lambda damage: damage.__name__
)
@pytest.mark.parametrize("restarted", [False, True], ids=["running", "restarted"])
def test_a_damaged_product_is_not_used_and_made_anew(
    start: Callable[..., Node], damage: Callable[[Path, Path], None], restarted: bool
) -> None:
    node = start("--aot", "auto")
    module, other = modules.exits(3), modules.exits(5)
    for each in (module, other):
        node.pod.with_wasm(each).build()
        node.wait_compiled(each)
    path, foreign = node.product(module, "O2"), node.product(other, "O2")
    assert path is not None
    assert foreign is not None
    path.chmod(0o644)
    damage(path, foreign)
    after = start("--aot", "auto", like=node) if restarted else node
    assert after.run(module) == 3
    assert f"{path.name}: removed: " in after.daemon.log_text()
    node.wait_compiled(module)
    assert after.run(other) == 5


def test_the_cache_keeps_to_its_size(start: Callable[..., Node]) -> None:
    node = start("--aot", "always", "--cache-size", "40K")
    for status in range(12):
        module = modules.exits(status)
        assert node.run(module) == status
        until("compiled", lambda n=status: node.compiled("O2") > n)  # type: ignore[misc]
        assert sum(path.stat().st_size for path in node.products()) <= 40 << 10
    assert node.product(modules.exits(11), "O2")
    assert not node.product(modules.exits(0), "O2")


# What the compiler cannot do


def test_a_time_out_is_remembered(start: Callable[..., Node]) -> None:
    node = start("--aot", "always", "--aot-timeout", "0.001")
    module = modules.exits(3)
    for _ in range(3):
        assert node.run(module) == 3
    until("given up", lambda: node.compiled("O2"))
    assert [node.compiled(level) for level in LEVELS] == [1, 1]
    assert "timed out: it takes more than 0.001 s" in node.daemon.log_text()
    again = start("--aot", "always", "--aot-timeout", "0.001", like=node)
    assert again.run(module) == 3
    assert [again.compiled(level) for level in LEVELS] == [0, 0]
    patient = start("--aot", "always", "--aot-timeout", "60", like=node)
    assert patient.run(module) == 3
    assert node.products()


def test_a_lack_of_memory_is_remembered(start: Callable[..., Node]) -> None:
    module = modules.laborious(200)
    node = start("--aot", "always", "--aot-memory", "4M")
    for _ in range(2):
        assert node.run(module) == 0
    until("given up", lambda: node.compiled("O2"))
    assert [node.compiled(level) for level in LEVELS] == [1, 1]
    assert "out of memory: it needs more than 4 MiB" in node.daemon.log_text()
    assert node.products() == []


def warm(node: Node, *files: Path, stack: int = 8192) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "supervisor", "warm", *map(str, files), "--cache-dir", str(node.cache)]
    shell = ["sh", "-c", f'ulimit -s {stack}; exec "$@"', "sh"]
    return subprocess.run([*shell, *command], cwd=ROOT, capture_output=True, text=True)


def test_a_crash_is_remembered(start: Callable[..., Node], tmp_path: Path) -> None:
    node = start("--aot", "auto")
    path = tmp_path / "loops.wasm"
    path.write_bytes(modules.loops(400))
    done = warm(node, path, stack=128)  # the compiler's recursion does not fit
    assert done.stdout == f"{path}: compiled (O0); O2 crashed: signal 11\n"
    assert done.returncode == 0
    container = node.pod.with_wasm(path).build().start()
    assert container.wait() == 0
    assert warm(node, path).stdout == done.stdout
    assert [node.compiled(level) for level in LEVELS] == [0, 0]
    assert node.product(path.read_bytes(), "O0")


def test_a_compiler_that_is_killed_costs_nobody_anything(auto: Node) -> None:
    module = modules.laborious(1000)  # half a minute at O2
    auto.pod.with_wasm(module).build()
    until("the better level", lambda: auto.product(module, "O0") and auto.cells())
    for cell in auto.cells():
        cell.kill()
    until("given up", lambda: "unable: it was killed" in auto.daemon.log_text())
    assert auto.run(module) == 0
    assert auto.cells() == []


# The cell


def test_the_compiler_has_no_privilege_and_sees_nothing(auto: Node) -> None:
    module = modules.laborious(1000)
    auto.pod.with_wasm(module).build()
    until("the better level", lambda: auto.product(module, "O0") and auto.cells())
    [cell] = auto.cells()
    proc = Path(f"/proc/{cell.pid}")
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
    assert (cell.nice(), os.sched_getscheduler(cell.pid)) == (19, os.SCHED_IDLE)
    opened = {os.readlink(each) for each in (proc / "fd").iterdir()}
    assert all(each.startswith("pipe:") or each == "/" or each.endswith("(deleted)") for each in opened), opened


@pytest.mark.parametrize("way", [Daemon.stop, Daemon.kill], ids=["stopped", "killed"])
def test_with_the_sandboxer_its_compilers_end(start: Callable[..., Node], way: Callable[[Daemon], object]) -> None:
    node = start("--aot", "auto")
    module = modules.laborious(1000)
    node.pod.with_wasm(module).build()
    until("the better level", lambda: node.product(module, "O0") and node.cells())
    cells = node.cells()
    keepers = [cell.parent() for cell in cells]
    way(node.daemon)
    for process in (*cells, *keepers):
        assert process is not None
        until("its end", lambda each=process: not each.is_running() or each.status() == "zombie", 5)  # type: ignore[misc]
    assert [path.suffix for path in node.cache.glob("*/*")] == [".so"]


def test_a_cache_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "noexec,mode=700", "tmpfs", str(folder)], check=True)
    try:
        with pytest.raises(AssertionError, match=f"cache {folder}: its file system is mounted noexec: .*--aot never"):
            Daemon("--cache-dir", str(folder)).start()
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
        f"{files[0]}: compiled (O2)",
        f"{image}: /exits5.wasm: compiled (O2)",
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
    assert f"{fine}: compiled (O2)" in done.stdout
    assert f"{broken}: not compiled; O0 refused: " in done.stdout
    assert f"{nonsense}: not an image archive" in done.stderr
    assert f"{absent}: No such file or directory" in done.stderr
    assert "Traceback" not in done.stderr
