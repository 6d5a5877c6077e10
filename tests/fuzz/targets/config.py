"""config.json, from bytes to a plan and a start request: any JSON is a container that can be made, or refused."""

from __future__ import annotations

import json
import os
import posixpath

from sandbox_api.errors import InvalidArgument
from sandbox_api.interface import Stdio
from supervisor.cgroups import path as cgroup_path
from supervisor.model.container import Container
from supervisor.model.process import Process
from supervisor.oci import bundle, container_log, rootfs, wasi
from supervisor.oci.spec import MAX_MOUNTS, ProcessSpec, Spec, parse, parse_exec
from supervisor.services import makers
from supervisor.state import schema
from tests.unit.specs import start_request
from workers.start_request import StartRequest

from ..json_mutation import mutator
from ..values import check, check_text

MOST = 16384
KEYS = (
    *("ociVersion", "process", "root", "mounts", "annotations", "linux", "args", "env", "cwd", "user", "uid", "gid"),
    *(
        "additionalGids",
        "rlimits",
        "type",
        "soft",
        "hard",
        "oomScoreAdj",
        "terminal",
        "capabilities",
        "path",
        "readonly",
    ),
    *("destination", "source", "options", "cgroupsPath", "namespaces", "resources", "seccomp", "maskedPaths"),
    *("readonlyPaths", "log.console.file", "log.console.driver", "io.kubernetes.container.restartCount"),
)
WORDS = tuple(f'"{key}":'.encode() for key in KEYS)
mutate = mutator(KEYS)


def run(data: bytes) -> None:
    try:
        _check_process(parse_exec(data))
    except InvalidArgument as error:
        check_text(error)
    try:
        spec = parse(data)
    except InvalidArgument as error:
        check_text(error)
        return
    _check_process(spec.process)
    assert len(spec.binds) + len(spec.tmpfs) <= MAX_MOUNTS
    for path in (*(each.destination for each in (*spec.binds, *spec.tmpfs)), *spec.masked, *spec.readonly):
        assert path.startswith("/")
        assert path != "/"
        assert posixpath.normpath(path) == path
    for value in (spec.annotations, spec.root, spec.netns, spec.cgroups_path, spec.added_capabilities, spec.binds):
        check(value)
    _plan(spec)
    _others(spec, data)


def _check_process(process: ProcessSpec) -> None:
    check(process)
    assert posixpath.normpath(process.cwd) == process.cwd
    body = start_request(process).encode()
    again = StartRequest.decode(body)
    assert again.encode() == body
    assert StartRequest.likeness(body) != body
    assert [each.decode(errors="surrogateescape") for each in again.args[1:]] == list(process.args[1:])
    assert (again.uid, again.gid, tuple(again.groups)) == (process.uid, process.gid, process.groups)
    for path in wasi._module_paths(process):
        assert posixpath.normpath(path) == path
        assert path.startswith("/")


def _plan(spec: Spec) -> None:
    root = bundle.root("/nowhere", spec.root)
    try:
        plan = rootfs.plan(spec, "/usr" if root.startswith("/nowhere") else root, (), "/nowhere", "", "/pod")
    except InvalidArgument:
        return
    assert os.path.isdir(plan.root)
    assert plan.root != "/"
    assert set(plan.inner) <= {each.destination for each in plan.binds}
    assert schema.plan_of(json.dumps(plan, default=schema.members)) == plan


def _others(spec: Spec, data: bytes) -> None:
    if spec.cgroups_path:
        try:
            for name in cgroup_path.parse_path(spec.cgroups_path):
                assert name not in ("", ".", "..")
                assert "/" not in name
                assert len(name.encode()) < 256
        except InvalidArgument:
            pass
    try:
        log = container_log.parse(spec.annotations, "c1")
        if log is not None:
            container_log.encode(log)
    except InvalidArgument:
        pass
    container = Container("default", "c1", "s1", "/bundle", Process(0, "c1", "", Stdio()))
    check(makers.origin(container, None, json.loads(data)))
