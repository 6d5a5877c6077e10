"""The command line on a node of containerd's: its containers are listed as its own, and left to it."""

from __future__ import annotations

from tests.harness.cli import Cli

from .node import Node, Pod


def test_containerds_containers_are_listed_with_their_names(node: Node, pod: Pod) -> None:
    container = pod.run("sleep", "1000")
    cli = Cli(node.sandboxer)
    row = next(row for row in cli.rows("ps") if row["id"] == container.id)
    assert (row["maker"], row["namespace"], row["pod"]) == ("containerd", "k8s.io", pod.id)
    assert row["name"] == "sleep-0"
    assert row["image"].endswith("sleep:e2e")
    assert {each["id"]: each["maker"] for each in cli.rows("pods")}[pod.id] == "containerd"


def test_its_logs_are_where_it_keeps_them(node: Node, pod: Pod) -> None:
    container = pod.run("sleep", "1000")
    done = Cli(node.sandboxer).run("logs", container.id)
    assert done.returncode == 1
    assert f"containerd keeps them: crictl logs {container.id}" in done.stderr


def test_exec_and_stats_reach_them_and_rm_does_not(node: Node, pod: Pod) -> None:
    container = pod.run("sleep", "1000")
    cli = Cli(node.sandboxer)
    assert cli.out("exec", container.id, "/sleep.wasm", "0") == "up\n"
    assert cli.rows("stats", container.id)[0]["memory"] > 0
    refused = cli.run("rm", container.id)
    assert refused.returncode == 1
    assert "it was made by containerd" in refused.stderr
    cli.out("stop", "-t", "0", container.id)
    assert container.wait().exit_code == 137
