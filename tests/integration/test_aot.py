"""Compiled modules: made once, and run where they are there; what is damaged or foreign is not."""

from __future__ import annotations

import hashlib
import os
import re
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox_api.errors import InvalidArgument
from sandbox_api.proto import task_pb2 as pb
from supervisor.aot.cache import Cache
from supervisor.aot.terms import Level
from supervisor.commands.doctor import engine_version

from ..harness import interpreters, modules
from ..harness.compiled import LEVELS, Node, native, until
from ..harness.guests import guest

ROUNDS = 2_000_000


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


@pytest.mark.parametrize(("mode", "listed", "runs"), [(0o644, 0, False), (0o600, 4, True)], ids=["denied", "granted"])
def test_an_access_list_counts(always: Node, mode: int, listed: int, runs: bool) -> None:
    """A user who may not read a module may not run it, compiled or not."""
    module = modules.exits(3)
    assert always.run(module) == 3
    builder = always.pod.with_wasm(module).process(user={"uid": 1234, "gid": 1234})
    path = builder.rootfs / "app.wasm"
    path.chmod(mode)
    # acl(5) as its attribute has it: version 2, then tag, rights and id of owner, user 1234, group, mask and others
    entries = [(1, 6, -1), (2, listed, 1234), (4, 4, -1), (0x10, 7, -1), (0x20, mode & 7, -1)]
    value = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    os.setxattr(path, "system.posix_acl_access", value)
    container = builder.build()
    if runs:
        assert container.start().wait() == 3
    else:
        with pytest.raises(InvalidArgument, match="may not read the module: Permission denied"):
            container.start()


def test_native_code_in_an_image_is_never_run(start: Callable[..., Node], tmp_path: Path) -> None:
    says, does = modules.exits(5), modules.exits(3)
    universal = modules.false_universal(says, does, tmp_path)
    shared_object = modules.compiled(does, tmp_path, universal=False)
    (tmp_path / "universal.wasm").write_bytes(universal)
    script = (
        "from workers.engines.wasmedge.engine import *;"
        " from workers.start_request import *; from workers.engines.engine import Module\n"
        "from workers.calls.call_list import *; plan = CallList(); engine = WasmEdge(); engine.prime()\n"
        "request = StartRequest(instance=1, module_kind=NATIVE)\n"
        "guest = engine.load(plan, Module(product=sys.argv[1].encode()), request, [])\n"
        "engine.instantiate(plan, guest, request); engine.run(plan, guest, True); Runner().perform(plan)"
    )
    assert (
        subprocess.run(**interpreters.command(script, str(tmp_path / "universal.wasm"))).returncode == 3
    )  # so it is native code that would be run
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


def test_a_product_that_does_not_load_is_not_the_modules_fault(always: Node) -> None:
    """As if the compiler had made something wrong: the module runs all the same, and the product is not used again."""
    module = modules.exits(9)
    always.run(module)
    always.wait_compiled(module)
    cache = Cache(always.cache, 1 << 30, engine_version()[1])
    with tempfile.TemporaryFile() as nonsense:
        nonsense.write(b"\x7fELF" + bytes(5000))
        nonsense.flush()
        cache.install(hashlib.sha256(module).hexdigest(), Level.O2, nonsense.fileno())
    cache.close()
    for _ in range(3):
        assert always.run(module) == 9
    assert not always.product(module, "O2")
    assert always.daemon.log_text().count("was compiled at O2 does not load, and is removed") == 1


def test_the_cache_keeps_to_its_size(start: Callable[..., Node]) -> None:
    node = start("--aot", "always", "--cache-size", "40K")
    for status in range(12):
        module = modules.exits(status)
        assert node.run(module) == status
        until("compiled", lambda n=status: node.compiled("O2") > n)  # type: ignore[misc]
        assert sum(path.stat().st_size for path in node.products()) <= 40 << 10
    assert node.product(modules.exits(11), "O2")
    assert not node.product(modules.exits(0), "O2")


def test_what_one_container_forbids_itself_is_not_taken_for_the_products_fault(start: Callable[..., Node]) -> None:
    """All containers of a module share its product: no profile of one's own may take it from the others."""
    node = start("--aot", "auto", "--images", "off")
    module = guest("sleep").read_bytes()
    node.pod.with_wasm(module).build()
    node.wait_compiled(module)
    without_code = node.pod.with_wasm(module).linux(seccomp=modules.no_code("mmap")).build().start()
    assert without_code.status() == "RUNNING"
    assert not native(without_code, node)
    assert native(node.pod.with_wasm(module).build().start(), node)
    assert node.product(module, "O2")
