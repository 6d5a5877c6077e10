"""Members of a config.json are read or passed over, or refused with a text that names the member."""

from __future__ import annotations

import resource
from typing import Any

import pytest

from sandbox_api.errors import InvalidArgument
from supervisor.oci.spec import Bind, ProcessSpec, Rlimit, Spec, Tmpfs, parse, parse_exec

from .specs import LEAST, config, full, text


def bind(destination: str, source: str = "/srv", *options: str, kind: str = "bind") -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}


def tmpfs(destination: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": list(options)}


def test_every_member() -> None:
    assert parse(text(full())) == Spec(
        process=ProcessSpec(
            args=("/app.wasm#main", "one"),
            env=("A=1", "PATH=/bin"),
            cwd="/work",
            uid=1000,
            gid=1001,
            groups=(10, 20),
            rlimits=(Rlimit(resource.RLIMIT_NOFILE, 64, 128),),
            oom_score_adj=500,
        ),
        root="rootfs",
        root_readonly=True,
        binds=(Bind("/data", "/srv", readonly=True),),
        tmpfs=(Tmpfs("/tmp", data="size=1m"),),
        annotations={"io.kubernetes.cri.sandbox-id": "pod"},
        cgroups_path="/k8s/pod",
        resources={"memory": {"limit": 1 << 26}},
        private_network=True,
        netns="/run/netns/x",
        seccomp={"defaultAction": "SCMP_ACT_ALLOW"},
        masked=("/proc/kcore", "/etc/shadow"),
        readonly=("/proc/sys",),
    )


def test_defaults_of_absent_members() -> None:
    assert parse(text(LEAST)) == Spec(process=ProcessSpec(args=("/app.wasm",)), root="rootfs")


def test_null_is_left_out() -> None:
    nothing = dict.fromkeys(("env", "cwd", "user", "rlimits", "oomScoreAdj", "terminal"))
    assert parse(config(nothing, mounts=None, linux=None, annotations=None)) == parse(text(LEAST))


@pytest.mark.parametrize(
    ("cwd", "normal"),
    [
        ("", "/"),
        ("/", "/"),
        ("/a/", "/a"),
        ("/a//b/./c", "/a/b/c"),
        ("/a/../b", "/b"),
        ("/../..", "/"),
        pytest.param(
            "//a",
            "/a",
        ),
        pytest.param(
            "//",
            "/",
        ),
    ],
)
def test_cwd(cwd: str, normal: str) -> None:
    assert parse(config({"cwd": cwd})).process.cwd == normal


@pytest.mark.parametrize(
    ("soft", "hard", "wanted"),
    [
        (0, 1, (0, 1)),
        (2**64 - 1, 2**64 - 1, (-1, -1)),
        (1024, 2**64 - 1, (1024, -1)),
        (2**63 - 1, 2**63, (2**63 - 1, -1)),
        (None, None, (0, 0)),
    ],
)
def test_rlimits(soft: int, hard: int, wanted: tuple[int, int]) -> None:
    limit = {"type": "RLIMIT_CORE", "soft": soft, "hard": hard}
    assert parse(config({"rlimits": [limit]})).process.rlimits == (Rlimit(resource.RLIMIT_CORE, *wanted),)


@pytest.mark.parametrize(
    ("mounts", "binds", "tmpfses"),
    [
        ([], [], []),
        ([bind("/a", "/x")], [Bind("/a", "/x")], []),
        ([bind("/a", "/x", "rbind", "rprivate", "ro")], [Bind("/a", "/x", readonly=True)], []),
        ([bind("/a", "/x", "rw")], [Bind("/a", "/x")], []),
        ([bind("/a", "/x", "ro", "rw")], [Bind("/a", "/x")], []),
        ([bind("/a", "/x", "rw", "ro")], [Bind("/a", "/x", readonly=True)], []),
        ([bind("/a", "/x", "bind", kind="none")], [Bind("/a", "/x", recursive=False)], []),
        ([bind("/a", "/x", "noexec", "rro")], [Bind("/a", "/x", True, 0x8, 0x1)], []),
        ([bind("/a", "/x", "rbind", kind="")], [Bind("/a", "/x")], []),
        ([bind("/a//b/../c/", "/x")], [Bind("/a/c", "/x")], []),
        ([bind("//a", "/x")], [Bind("/a", "/x")], []),
        ([tmpfs("/t")], [], [Tmpfs("/t")]),
        ([tmpfs("/t", "ro", "noexec", "size=1m", "mode=700")], [], [Tmpfs("/t", True, "size=1m,mode=700")]),
        ([tmpfs("/dev", "size=1m"), tmpfs("/dev/shm/")], [], []),
        ([bind("/dev/shm", "/x")], [Bind("/dev/shm", "/x")], []),
        ([bind("/a", "/x"), bind("/b", "/y")], [Bind("/a", "/x"), Bind("/b", "/y")], []),
        # Of two at one place the later is seen.
        ([bind("/a", "/x"), bind("/a/", "/y", "ro")], [Bind("/a", "/y", readonly=True)], []),
        ([bind("/a", "/x"), tmpfs("/a")], [], [Tmpfs("/a")]),
        ([tmpfs("/a"), bind("/a", "/x")], [Bind("/a", "/x")], []),
        ([tmpfs("/a", "size=1m"), tmpfs("/a")], [], [Tmpfs("/a")]),
        pytest.param(
            [bind("/a/b", "/x"), bind("/a", "/y")],
            [Bind("/a", "/y")],
            [],
        ),
    ],
)
def test_mounts(mounts: list[Any], binds: list[Bind], tmpfses: list[Tmpfs]) -> None:
    spec = parse(config(mounts=mounts))
    assert (list(spec.binds), list(spec.tmpfs)) == (binds, tmpfses)


@pytest.mark.parametrize("kind", ["proc", "sysfs", "devpts", "mqueue", "cgroup", "cgroup2"])
def test_mounts_that_mean_nothing_to_wasi(kind: str) -> None:
    spec = parse(config(mounts=[{"destination": "/x", "type": kind, "source": kind, "options": ["ro"]}]))
    assert (spec.binds, spec.tmpfs) == ((), ())


@pytest.mark.parametrize(
    ("namespaces", "private", "netns"),
    [
        ([], False, ""),
        ([{"type": "pid"}, {"type": "mount"}], False, ""),
        ([{"type": "network"}], True, ""),
        ([{"type": "pid", "path": "/p"}, {"type": "network", "path": "/n"}], True, "/n"),
    ],
)
def test_network(namespaces: list[Any], private: bool, netns: str) -> None:
    spec = parse(config(linux={"namespaces": namespaces}))
    assert (spec.private_network, spec.netns) == (private, netns)


def test_annotations_are_text() -> None:
    assert parse(config(annotations={"a": "x", "b": 1})).annotations == {"a": "x", "b": "1"}


REFUSED_PROCESS: list[tuple[dict[str, Any], str]] = [
    ({"args": []}, r"process\.args is empty"),
    ({"args": None}, r"process\.args is empty"),
    ({"args": [""]}, r"process\.args is empty"),
    ({"args": "app.wasm"}, r"process\.args is str, not list"),
    ({"args": ["a", 1]}, r"process\.args holds"),
    ({"args": ["a\0b"]}, r"process\.args holds"),
    ({"env": ["A=1", "B"]}, r"process\.env: 'B' is not NAME=value"),
    ({"env": ["A=\0"]}, r"process\.env holds"),
    ({"cwd": "work"}, r"process\.cwd 'work' is not an absolute path"),
    ({"cwd": 1}, r"process\.cwd is int, not str"),
    ({"user": []}, r"process\.user is list, not dict"),
    ({"user": {"uid": -1}}, r"process\.user\.uid: -1"),
    ({"user": {"uid": True}}, r"process\.user\.uid is bool, not int"),
    ({"user": {"uid": 1.0}}, r"process\.user\.uid is float, not int"),
    ({"user": {"gid": 2**32 - 1}}, r"process\.user\.gid: 4294967295"),
    ({"user": {"additionalGids": [1, "2"]}}, r"additionalGids: '2'"),
    ({"user": {"additionalGids": [True]}}, r"additionalGids: True"),
    ({"oomScoreAdj": 1001}, r"process\.oomScoreAdj 1001 is not from -1000 to 1000"),
    ({"oomScoreAdj": -1001}, r"process\.oomScoreAdj -1001"),
    ({"rlimits": [1]}, r"process\.rlimits holds"),
    ({"rlimits": [{"soft": 1, "hard": 1}]}, r"process\.rlimits: no limit is called ''"),
    ({"rlimits": [{"type": "RLIMIT_LUCK"}]}, r"process\.rlimits: no limit is called 'RLIMIT_LUCK'"),
    ({"rlimits": [{"type": "RLIM_INFINITY"}]}, r"process\.rlimits: no limit is called 'RLIM_INFINITY'"),
    ({"rlimits": [{"type": "error"}]}, r"process\.rlimits: no limit is called 'error'"),
    ({"rlimits": [{"type": "RLIMIT_CPU", "soft": "1"}]}, r"process\.rlimits\.soft is str, not int"),
    ({"terminal": 1}, r"process\.terminal is int, not bool"),
]


@pytest.mark.parametrize(("process", "match"), REFUSED_PROCESS)
def test_processes_that_are_refused(process: dict[str, Any], match: str) -> None:
    with pytest.raises(InvalidArgument, match=rf"config\.json: .*{match}"):
        parse(config(process))


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"root": None}, r"root\.path is missing"),
    ({"root": {"path": ""}}, r"root\.path is missing"),
    ({"root": {"path": 1}}, r"root\.path is int, not str"),
    ({"root": {"path": "r", "readonly": "yes"}}, r"root\.readonly is str, not bool"),
    ({"mounts": {}}, r"mounts is dict, not list"),
    ({"mounts": ["/a"]}, r"mounts holds"),
    ({"mounts": [bind("a")]}, r"mounts: destination 'a' is not an absolute path"),
    ({"mounts": [{"type": "bind"}]}, r"mounts: destination '' is not an absolute path"),
    ({"mounts": [bind("/a:b")]}, r"mounts: destination '/a:b' holds a colon"),
    ({"mounts": [bind("/a\0b")]}, r"destination"),
    ({"mounts": [bind("/a/..")]}, r"mounts: '/' is the root file system"),
    ({"mounts": [tmpfs("/")]}, r"mounts: '/' is the root file system"),
    ({"mounts": [bind("/a", kind="ext4")]}, r"mounts: /a: unsupported mount type 'ext4'"),
    ({"mounts": [bind("/a") | {"options": ["ro", 1]}]}, r"mounts\.options holds"),
    ({"mounts": [bind("/a") | {"source": 1}]}, r"mounts\.source is int, not str"),
    ({"annotations": []}, r"annotations is list, not dict"),
    ({"linux": []}, r"linux is list, not dict"),
    ({"linux": {"cgroupsPath": 1}}, r"linux\.cgroupsPath is int, not str"),
    ({"linux": {"resources": []}}, r"linux\.resources is list, not dict"),
    ({"linux": {"maskedPaths": ["relative"]}}, r"linux\.maskedPaths"),
    ({"linux": {"maskedPaths": ["//"]}}, r"linux\.maskedPaths"),
    ({"linux": {"readonlyPaths": ["//./a/.."]}}, r"linux\.readonlyPaths"),
    ({"linux": {"readonlyPaths": ["/a", 1]}}, r"linux\.readonlyPaths holds"),
    ({"linux": {"seccomp": []}}, r"linux\.seccomp is list, not dict"),
    ({"linux": {"namespaces": ["network"]}}, r"linux\.namespaces holds"),
    ({"linux": {"namespaces": [{"type": "network", "path": 1}]}}, r"linux\.namespaces\.path is int"),
]


@pytest.mark.parametrize(("members", "match"), REFUSED)
def test_configs_that_are_refused(members: dict[str, Any], match: str) -> None:
    with pytest.raises(InvalidArgument, match=rf"config\.json: .*{match}"):
        parse(config(**members))


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "config.json is not JSON"),
        (b"{", "config.json is not JSON"),
        (b"\xff\xfe\xfd", "config.json is not JSON"),
        (b"[" * 100_000, "config.json is not JSON"),
        (b"9" * 10_000, "config.json is not JSON"),
        (b"[]", "config.json is a JSON list, not an object"),
        (b"null", "config.json is a JSON NoneType, not an object"),
        (b"{}", "process is missing"),
    ],
)
def test_bytes_that_are_no_config(data: bytes, match: str) -> None:
    with pytest.raises(InvalidArgument, match=match):
        parse(data)


def test_an_exec_is_a_process() -> None:
    assert parse_exec(text(full()["process"])) == parse(text(full())).process


def test_an_exec_that_is_none() -> None:
    with pytest.raises(InvalidArgument, match="exec spec is not JSON"):
        parse_exec(b"")


def test_capabilities_beyond_the_engines_own_are_named() -> None:
    asked = {"bounding": ["CAP_CHOWN", "CAP_SYS_TIME"], "effective": ["CAP_BPF"]}
    parsed = parse(text({**LEAST, "process": {**LEAST["process"], "capabilities": asked}}))
    assert parsed.added_capabilities == ("CAP_BPF", "CAP_SYS_TIME")
