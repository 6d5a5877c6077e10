"""From a spec to a WASI context: the module, the preopens, and where relative paths start."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from sandbox_api.errors import FailedPrecondition, InvalidArgument, OutOfDescriptors
from supervisor.host import linux
from supervisor.oci import mount_tree
from supervisor.oci.rootfs import plan
from supervisor.oci.spec import Bind, ProcessSpec, Rlimit, Spec, Tmpfs
from supervisor.oci.wasi import WasiContext, assemble, foresee, max_pages, module_and_function
from workers.start_request import CGROUP, Descriptors

from .leaks import nothing_left_open
from .specs import start_request

MIB = 1 << 20


@pytest.mark.parametrize(
    ("argument", "module", "function"),
    [
        ("/app.wasm", "/app.wasm", "_start"),
        ("/app.wasm#run", "/app.wasm", "run"),
        ("app.wasm#a b", "app.wasm", "a b"),
        ("/a#b/app.wasm#run", "/a#b/app.wasm", "run"),
        ("/a#b#run", "/a#b", "run"),
        ("/app.wasm#", "/app.wasm#", "_start"),
        ("#run", "#run", "_start"),
        ("#", "#", "_start"),
        ("", "", "_start"),
    ],
)
def test_the_first_argument_names_module_and_function(argument: str, module: str, function: str) -> None:
    assert module_and_function(argument) == (module, function)


@pytest.mark.parametrize(
    ("limit", "pages"),
    [
        (-1, 0),
        (0, 0),
        (1, 1),
        (65535, 1),
        (65536, 1),
        (131071, 1),
        (4 * MIB, 48),
        (64 * MIB, 1004),
        (1024 * MIB, 16304),
        (5000 * MIB, 65536),
        (1 << 62, 65536),
    ],
)
def test_a_memory_limit_bounds_linear_memory(limit: int, pages: int) -> None:
    assert max_pages(limit) == pages


def test_what_the_engine_makes_of_an_interpreted_module_is_left_to_it() -> None:
    compiled, interpreted = max_pages(64 * MIB), max_pages(64 * MIB, MIB)
    assert compiled - interpreted == 15 * MIB // 65536
    assert max_pages(16 * MIB, 2 * MIB) == 1


# The start request


def test_a_request_says_all_that_the_spec_does() -> None:
    spec = ProcessSpec(
        args=("/app.wasm#run", "é"),
        env=("A=1",),
        cwd="/work",
        uid=1000,
        gid=1001,
        groups=(10,),
        rlimits=(Rlimit(7, 64, -1),),
        oom_score_adj=0,
    )
    descriptors = Descriptors()
    descriptors.add(CGROUP, 7, 8)
    made = start_request(
        spec, 9, memory_limit=4 * 65536, descriptors=descriptors, terminal=True, network=True, seccomp=[b"filter"]
    )
    assert (made.instance, made.function, made.args) == (9, b"run", [b"/app.wasm", "é".encode()])
    assert made.env == [b"A=1", b"PWD=/work"]
    assert (made.uid, made.gid, made.groups) == (1000, 1001, [10])
    assert (made.rlimits, made.oom_score_adj) == ([(7, 64, -1)], 0)
    assert (made.max_pages, made.descriptors.all(CGROUP)) == (3, [7, 8])
    assert (made.terminal, made.network, made.seccomp) == (True, True, [b"filter"])


@pytest.mark.parametrize(
    ("cwd", "env", "wanted"),
    [
        ("/", (), []),
        ("/work", (), [b"PWD=/work"]),
        ("/work", ("PWD=/else",), [b"PWD=/else"]),
        ("/work", ("OLDPWD=/x",), [b"OLDPWD=/x", b"PWD=/work"]),
    ],
)
def test_pwd(cwd: str, env: tuple[str, ...], wanted: list[bytes]) -> None:
    assert start_request(ProcessSpec(("a",), env, cwd)).env == wanted


# The context


class Tree:
    """A root file system and, beside it, what is mounted and what nobody may reach."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.outside = folder / "outside"
        for path in ("root/bin", "root/lib", "outside", "tmpfs/0"):
            (folder / path).mkdir(parents=True)
        self.tmpfs_folder = folder / "tmpfs"
        self.file("root/app.wasm")
        self.file("outside/out.wasm")

    def file(self, path: str) -> Path:
        made = self.root.parent / path
        made.parent.mkdir(parents=True, exist_ok=True)
        made.write_text(path)
        return made

    @contextmanager
    def context(
        self,
        module: str = "/app.wasm",
        cwd: str = "/",
        binds: Sequence[Bind] = (),
        tmpfs: Sequence[Tmpfs] = (),
        readonly: bool = False,
        spoiled: Callable[[], object] | None = None,
        env: tuple[str, ...] = (),
    ) -> Iterator[WasiContext]:
        """Open what such a spec asks for; nothing of it may be left afterwards."""
        process = ProcessSpec((module,), env, cwd)
        spec = Spec(process, "", readonly, tuple(binds), tuple(tmpfs))
        todo = plan(spec, str(self.root), (), str(self.tmpfs_folder), str(self.root.parent / "mounting"))
        if spoiled:
            spoiled()
        with nothing_left_open():
            context = assemble(process, todo)
            try:
                yield context
            finally:
                context.close()

    def refuses(self, match: str, **options: object) -> None:
        with pytest.raises(InvalidArgument, match=match), self.context(**options):  # type: ignore[arg-type]
            pass

    def preopens(self, context: WasiContext) -> dict[str, tuple[Path, bool]]:
        """Guest path to folder (relative to all) and whether it is read-only."""
        assert len(context.preopens) == len(context.folders)
        return {
            preopen.path.decode(): (self.where(fd), preopen.readonly)
            for preopen, fd in zip(context.preopens, context.folders, strict=True)
        }

    def module(self, context: WasiContext) -> str:
        return str(self.where(context.module))

    def where(self, fd: int) -> Path:
        """Identify a descriptor by its inode: a copy of a mount has no path."""
        status = os.fstat(fd)
        (found,) = (each for each in self.root.parent.rglob("*") if os.path.samestat(each.lstat(), status))
        return found.relative_to(self.root.parent)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    mount_tree.prepare(str(tmp_path / "mounting"))
    return Tree(tmp_path)


@pytest.mark.parametrize("readonly", [False, True])
def test_the_root_is_a_preopen(tree: Tree, readonly: bool) -> None:
    with tree.context(readonly=readonly) as context:
        assert tree.preopens(context) == {"/": (Path("root"), readonly)}


def test_binds_and_tmpfs_are_preopens_at_their_places(tree: Tree) -> None:
    source = str(tree.outside)
    binds = [Bind("/data", source), Bind("/data/deep", source, readonly=True)]
    with tree.context(binds=binds, tmpfs=[Tmpfs("/tmp", readonly=True)]) as context:
        assert tree.preopens(context) == {
            "/": (Path("root"), False),
            "/data": (Path("outside"), False),
            "/data/deep": (Path("outside"), True),
            "/tmp": (Path("tmpfs/0"), True),
        }


def test_of_what_is_mounted_only_folders_are_preopens(tree: Tree) -> None:
    """As they are inside the root, where the mounts are."""
    file = Bind("/data/hosts", str(tree.file("outside/hosts")))
    folder = Bind("/data", str(tree.outside), readonly=True)
    with tree.context(binds=[file, folder]) as context:
        assert tree.preopens(context) == {"/": (Path("root"), False), "/data": (Path("outside"), True)}


def test_a_bind_that_has_gone_away(tree: Tree) -> None:
    gone = tree.outside / "gone"
    gone.mkdir()
    with pytest.raises(FailedPrecondition, match="outside/gone on /data: No such file"):
        tree.context(binds=[Bind("/data", str(gone))], spoiled=gone.rmdir).__enter__()


# The module


@pytest.mark.parametrize(
    ("module", "cwd", "found"),
    [
        ("/app.wasm", "/", "root/app.wasm"),
        ("app.wasm", "/", "root/app.wasm"),
        ("app.wasm", "/bin", "root/bin/app.wasm"),
        ("./../app.wasm", "/bin", "root/app.wasm"),
        ("../../../app.wasm", "/bin", "root/app.wasm"),
        ("/bin/../app.wasm#run", "/bin", "root/app.wasm"),
        ("/data/out.wasm", "/", "outside/out.wasm"),
        ("out.wasm", "/data", "outside/out.wasm"),
        ("../data/out.wasm", "/data", "outside/out.wasm"),
        ("/link.wasm", "/", "root/app.wasm"),
        ("/datax/app.wasm", "/", "root/datax/app.wasm"),
    ],
)
def test_the_module_is_found_where_the_guest_would_see_it(tree: Tree, module: str, cwd: str, found: str) -> None:
    tree.file("root/bin/app.wasm")
    tree.file("root/datax/app.wasm")
    (tree.root / "link.wasm").symlink_to("/app.wasm")
    with tree.context(module, cwd, [Bind("/data", str(tree.outside))]) as context:
        assert tree.module(context) == found


@pytest.mark.parametrize(
    ("module", "path", "found"),
    [
        ("tool.wasm", "/nowhere:/bin:/lib", "root/bin/tool.wasm"),
        ("tool.wasm", "/lib:/bin", "root/lib/tool.wasm"),
        ("app.wasm#run", "/bin:/app.wasm", "root/app.wasm"),
        ("tool.wasm", "../lib", "root/lib/tool.wasm"),
        ("./app.wasm", "/bin", "root/app.wasm"),
        ("out.wasm", "/bin:/data", "outside/out.wasm"),
    ],
)
def test_a_name_without_a_slash_is_looked_up_in_path(tree: Tree, module: str, path: str, found: str) -> None:
    for name in ("bin", "lib"):
        tree.file(f"root/{name}/tool.wasm")
    env, binds = ("A=1", f"PATH={path}"), (Bind("/data", str(tree.outside)),)
    with tree.context(module, binds=binds, env=env) as context:
        assert tree.module(context) == found
    process = ProcessSpec((module,), env)
    guessed = foresee(process, plan(Spec(process, "", binds=binds), str(tree.root), (), "", ""))
    assert os.readlink(f"/proc/self/fd/{guessed}").endswith(found)
    os.close(guessed)


def test_a_module_s_path_with_two_slashes(tree: Tree) -> None:
    with tree.context("//data/out.wasm", binds=[Bind("/data", str(tree.outside))]) as context:
        assert tree.module(context) == "outside/out.wasm"


@pytest.mark.parametrize("target", ["{outside}/out.wasm", "../outside/out.wasm", "../../../../../etc/passwd"])
def test_a_link_does_not_lead_out_of_the_root(tree: Tree, target: str) -> None:
    (tree.root / "link.wasm").symlink_to(target.format(outside=tree.outside))
    tree.refuses("module /link.wasm: No such file or directory", module="/link.wasm")


def test_a_link_does_not_lead_out_of_a_bind(tree: Tree) -> None:
    (tree.outside / "link.wasm").symlink_to("../root/app.wasm")
    binds = [Bind("/data", str(tree.outside))]
    tree.refuses("module /data/link.wasm: No such file", module="/data/link.wasm", binds=binds)


def test_a_magic_link_is_not_followed(tree: Tree) -> None:
    """Where the image's root holds the host's /proc."""
    tree.refuses("module /data/self/exe: ", module="/data/self/exe", binds=[Bind("/data", "/proc")])


def test_a_module_that_is_none(tree: Tree) -> None:
    tree.refuses("module /gone.wasm: No such file or directory", module="gone.wasm")
    tree.refuses("module /bin is not a regular file", module="/bin")
    os.mkfifo(tree.root / "fifo")
    tree.refuses("module /fifo is not a regular file", module="/fifo")


# The working directory


def test_relative_paths_start_at_cwd_and_absolute_ones_still_work(tree: Tree) -> None:
    with tree.context(cwd="/bin") as context:
        assert context.preopens[0].path == b"."
        assert tree.preopens(context) == {
            ".": (Path("root/bin"), False),
            "/bin": (Path("root/bin"), False),
            "/lib": (Path("root/lib"), False),
        }


def test_cwd_in_a_bind(tree: Tree) -> None:
    (tree.outside / "deep").mkdir()
    with tree.context(cwd="/data/deep", binds=[Bind("/data", str(tree.outside), readonly=True)]) as context:
        assert tree.preopens(context)["."] == (Path("outside/deep"), True)
        assert tree.preopens(context)["/data"] == (Path("outside"), True)


def test_a_bind_is_not_covered_by_the_folder_beneath(tree: Tree) -> None:
    with tree.context(cwd="/lib", binds=[Bind("/bin", str(tree.outside))]) as context:
        assert tree.preopens(context)["/bin"] == (Path("outside"), False)


def test_cwd_is_made_where_it_is_missing(tree: Tree) -> None:
    with tree.context(cwd="/lib/new/deep") as context:
        assert tree.preopens(context)["."] == (Path("root/lib/new/deep"), False)


def test_cwd_is_not_made_in_a_read_only_root(tree: Tree) -> None:
    tree.refuses("process.cwd /new: no such folder in a read-only root", cwd="/new", readonly=True)
    assert not (tree.root / "new").exists()


def test_cwd_that_is_a_file(tree: Tree) -> None:
    tree.refuses("Not a directory", cwd="/app.wasm")


def test_folders_of_the_root_that_are_links(tree: Tree) -> None:
    (tree.root / "usr").mkdir()
    (tree.root / "usrbin").symlink_to("usr")
    (tree.root / "nowhere").symlink_to("/gone")
    (tree.root / "out").symlink_to(tree.outside)
    with tree.context(cwd="/lib") as context:
        preopens = tree.preopens(context)
        assert preopens["/usrbin"] == (Path("root/usr"), False)
        assert not {"/nowhere", "/out", "/app.wasm"} & preopens.keys()


@pytest.mark.parametrize("target", ["/lib/v1", "../lib/v1", "/lib/../lib/v1"])
def test_cwd_behind_a_link_to_another_folder(tree: Tree, target: str) -> None:
    """As in an image with /var/run -> /run."""
    (tree.root / "lib/v1").mkdir()
    (tree.root / "bin/current").symlink_to(target)
    with tree.context(cwd="/bin/current") as context:
        assert tree.preopens(context)["."] == (Path("root/lib/v1"), False)


def test_no_folder_is_left_out_for_want_of_descriptors(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    real = linux.open_in_root

    def scarce(root: int, path: str, flags: int, mode: int = 0) -> int:
        if path == "bin":
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(root, path, flags, mode)

    monkeypatch.setattr(linux, "open_in_root", scarce)
    with pytest.raises(OutOfDescriptors), tree.context(cwd="/lib"):
        pass


def test_a_root_with_very_many_folders(tree: Tree) -> None:
    """A worker can be handed only so many descriptors (SCM_RIGHTS)."""
    for number in range(500):
        (tree.root / f"folder{number}").mkdir()
    with tree.context(cwd="/lib") as context:
        assert len(context.folders) < 100
        assert tree.preopens(context)["."] == (Path("root/lib"), False)
