"""A config.json of any size and shape is refused, or taken, while nobody else waits for it."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from sandbox_api.errors import InvalidArgument
from sandbox_api.proto import task_pb2 as pb
from supervisor.oci.spec import MAX_BYTES

from ..harness.container import Builder, Pod

SECONDS = 0.25
"""Create's time, all included, on a machine with other work. 0.1.0 took from 0.5 s to more than a minute."""


def bind(number: int) -> dict[str, object]:
    return {"destination": f"/m{number}", "type": "bind", "source": "/etc", "options": ["rbind", "ro"]}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "mounts": ({"mounts": [bind(number) for number in range(8000)]}, "mounts has 8000 entries; 256 is the most"),
    "binds": ({"mounts": [bind(number) for number in range(200)]}, "200 mounts; 128 is the most"),
    "bytes": ({"mounts": [bind(number) for number in range(60000)]}, f"bytes; {MAX_BYTES} is the most"),
    "nothing": ({"mounts": [{"type": "proc"}] * 55000}, "mounts has 55000 entries; 256 is the most"),
    "options": ({"mounts": [{**bind(1), "options": ["ro"] * 100000}]}, "options has 100000 entries; 64 is the most"),
    "masked": ({"linux": {"maskedPaths": ["/a"] * 200000}}, "maskedPaths has 200000 entries; 256 is the most"),
    "readonly": ({"linux": {"readonlyPaths": ["/a"] * 200000}}, "readonlyPaths has 200000 entries; 256 is the most"),
    "namespaces": ({"linux": {"namespaces": [{}] * 300000}}, "namespaces has 300000 entries; 64 is the most"),
    "env": ({"process": {"env": ["A="] * 200000}}, "env has 200000 entries; 32768 is the most"),
    "args": ({"process": {"args": [""] * 300000}}, "args has 300000 entries; 32768 is the most"),
    "rlimits": ({"process": {"rlimits": [{}] * 300000}}, "rlimits has 300000 entries; 64 is the most"),
    "groups": (
        {"process": {"user": {"additionalGids": [1] * 400000}}},
        "additionalGids has 400000 entries; 65536 is the most",
    ),
    "deep": ({"mounts": [{**bind(1), "destination": "/a" * 2000}]}, "a destination has 2000 parts; 64 is the most"),
    "path": ({"process": {"cwd": "/" + "a/" * 400000}}, "cwd has 800001 characters; 4096 is the most"),
    "annotations": (
        {"annotations": {f"{number}": "" for number in range(70000)}},
        "annotations has 70001 entries; 16384 is the most",
    ),
    "nested": ({"annotations": {"a": [[]] * 250000}}, "annotations: 'a' is list, not str"),
}


def written(builder: Builder, changes: dict[str, Any]) -> Builder:
    for name, value in changes.items():
        if isinstance(value, dict) and name in builder.config:
            builder.config[name].update(value)
        else:
            builder.config[name] = value
    (builder.bundle / "config.json").write_text(json.dumps(builder.config, separators=(",", ":")))
    return builder


def create(builder: Builder) -> tuple[float, str]:
    """Time three Creates: the fastest's seconds, and why it failed; the machine has other work."""
    times, said = [], ""
    container = builder.pod.with_wasm("hello").build()  # for its connection
    for _ in range(3):
        began = time.monotonic()
        try:
            container.connection.call("Create", builder.request())
        except InvalidArgument as error:
            said = str(error)
        times.append(time.monotonic() - began)
    container.delete()
    return min(times), said


@pytest.mark.parametrize("name", REFUSED)
def test_too_much_is_refused_at_once_and_the_bound_named(pod: Pod, name: str) -> None:
    changes, why = REFUSED[name]
    took, said = create(written(pod.with_wasm("hello"), changes))
    assert took < SECONDS
    assert len(said) < 1000
    with pytest.raises(InvalidArgument, match=why):
        raise InvalidArgument(said)


@pytest.mark.parametrize("depth", [900, 100_000])
def test_deep_nesting(pod: Pod, depth: int) -> None:
    builder = pod.with_wasm("hello")
    text = json.dumps(builder.config)
    (builder.bundle / "config.json").write_text(f'{text[:-1]},"x":{"[" * depth}{"]" * depth}}}')
    container = builder.pod.with_wasm("hello").build()
    began = time.monotonic()
    if depth < 1000:
        container.connection.call("Create", builder.request())
    else:
        with pytest.raises(InvalidArgument, match="nested too deeply"):
            container.connection.call("Create", builder.request())
    assert time.monotonic() - began < SECONDS


def test_as_much_as_may_be_is_served(pod: Pod) -> None:
    """Services of a large namespace as variables, and each list as long as it may be."""
    names = [f"SERVICE_{number}=10.0.0.1" for number in range(32768)]
    builder = pod.with_wasm("hello").process(env=names, user={"uid": 0, "gid": 0, "additionalGids": list(range(200))})
    builder.linux(maskedPaths=[f"/gone{number}" for number in range(256)])
    builder.linux(readonlyPaths=[f"/lost{number}" for number in range(256)])
    builder.config["annotations"].update({f"key{number}": "value" for number in range(5000)})
    for number in range(60):
        builder.mount(f"/m{number}", "/etc", options=("ro",))
    container = written(builder, {}).build().start()
    assert container.wait() == 0, container.stderr()
    assert container.stdout() == "hello from WASI\n"


def test_a_seccomp_profile_without_end(pod: Pod) -> None:
    rule = {"names": ["ioctl"], "action": "SCMP_ACT_LOG"}
    args = [{**rule, "args": [{"index": 1, "value": value, "op": "SCMP_CMP_EQ"}]} for value in range(7000)]
    builder = pod.with_wasm("hello").linux(seccomp={"defaultAction": "SCMP_ACT_ALLOW", "syscalls": args})
    container = written(builder, {}).build()
    began = time.monotonic()
    with pytest.raises(InvalidArgument, match="more than 1024 rules"):
        container.start()
    assert time.monotonic() - began < SECONDS


def test_a_start_with_deep_mounts_holds_up_nobody(pod: Pod) -> None:
    """All folders of 120 destinations of 2,000 parts were made where every client waits: for minutes."""
    bystander = pod.with_wasm("sleep").build().start()
    builder = pod.with_wasm("sleep")
    builder.config["mounts"] = [
        {"destination": f"{'/a' * 60}/{number}/b", "type": "bind", "source": "/etc/hostname"} for number in range(100)
    ]
    container = builder.build()
    stream = container.connection.send("Start", pb.StartRequest(id=container.id))
    slowest = 0.0
    for _ in range(50):
        begun = time.monotonic()
        assert bystander.status() == "RUNNING"
        slowest = max(slowest, time.monotonic() - begun)
    container.connection.receive(stream, "Start")
    assert slowest < SECONDS
