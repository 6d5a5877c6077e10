"""The options of ``run`` become an OCI spec."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from supervisor.commands import spec
from supervisor.oci import spec as oci


def wanted(**fields: object) -> oci.Spec:
    process = spec.Process(args=("/app.wasm",))
    import json

    return oci.parse(json.dumps(spec.Wanted("c", "app.wasm", process, **fields).document()).encode())  # type: ignore[arg-type]


def test_the_least_is_a_spec_without_network_and_limits() -> None:
    made = wanted()
    assert made.process.args == ("/app.wasm",)
    assert (made.private_network, made.netns, made.resources) == (True, "", {})


def test_networks() -> None:
    assert not wanted(network="host").private_network
    assert wanted(network="/run/netns/one").netns == "/run/netns/one"


@pytest.mark.parametrize(("cpus", "quota"), [(0.5, 50_000), (2.0, 200_000), (0.001, 1000)])
def test_processors_are_a_quota(cpus: float, quota: int) -> None:
    assert wanted(cpus=cpus).resources["cpu"] == {"quota": quota, "period": 100_000}


@pytest.mark.parametrize("text", ["", "a", "a:b", ":/b", "/nothing-there:/b", "/tmp:/b:rx", "/tmp:b"])
def test_a_volume_that_is_none(text: str) -> None:
    with pytest.raises(click.UsageError, match=r"-v "):
        spec.Volume.parse(text)


def test_a_volume_follows_where_we_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert spec.Volume.parse(".:/src:ro") == spec.Volume(str(tmp_path), "/src", True)


def test_the_later_variable_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "from here")
    monkeypatch.delenv("NOT_HERE", raising=False)
    (tmp_path / "env").write_text("A=1\n\n# B=0\nB=2\n")
    found = spec.environment(["A=3", "HERE", "NOT_HERE", "E="], [tmp_path / "env"])
    assert found == ("A=3", "B=2", "HERE=from here", "E=")
    with pytest.raises(click.UsageError):
        spec.environment(["=1"], [])
    with pytest.raises(click.ClickException, match="No such file"):
        spec.environment([], [tmp_path / "none"])


@pytest.mark.parametrize(("text", "ids"), [("7", (7, 0)), ("7:8", (7, 8))])
def test_users_are_numbers(text: str, ids: tuple[int, int]) -> None:
    assert spec.user(text) == ids
    with pytest.raises(click.UsageError, match="in numbers"):
        spec.user("root")
