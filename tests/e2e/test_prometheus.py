"""A real Prometheus scrapes the node while pods run on it; promtool reads the rules and the dashboard's queries."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.daemon import ROOT

from .node import Node, Pod

PACKAGING = ROOT / "packaging"
FETCHED = ROOT / ".cache" / "prometheus"
SECONDS = 60


@pytest.fixture(scope="module")
def programs() -> Path:
    """The folder of prometheus and promtool, Debian's."""
    subprocess.run([PACKAGING / "fetch-prometheus.sh", FETCHED], check=True)
    return FETCHED / "usr/bin"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


class Prometheus:
    """A Prometheus of the test's own. Use it as a context manager."""

    def __init__(self, programs: Path, folder: Path, target: str) -> None:
        self._programs = programs
        self._folder = folder
        self.target = target
        self._port = free_port()
        config = (PACKAGING / "prometheus/prometheus.yml").read_text()
        config = config.replace("127.0.0.1:9473", target).replace(
            "alerts.yml", str(PACKAGING / "prometheus/alerts.yml")
        )
        (folder / "prometheus.yml").write_text("global: {scrape_interval: 1s, evaluation_interval: 1s}\n" + config)

    def __enter__(self) -> Prometheus:
        command = [self._programs / "prometheus", f"--config.file={self._folder}/prometheus.yml"]
        command += [f"--storage.tsdb.path={self._folder}/data", f"--web.listen-address=127.0.0.1:{self._port}"]
        self._log = (self._folder / "log").open("wb")
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log)
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.terminate()
        self._process.wait(SECONDS)
        self._log.close()
        print((self._folder / "log").read_text()[-4000:])

    def ask(self, path: str, **query: str) -> object:
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=SECONDS) as response:
            return json.load(response)["data"]

    def value(self, query: str) -> float:
        """The value of a query that is one sample; -1 where there is none yet."""
        try:
            result = self.ask("query", query=query)["result"]  # type: ignore[index]
        except OSError:  # it does not listen yet
            return -1
        return float(result[0]["value"][1]) if result else -1

    def until(self, query: str, least: float) -> None:
        deadline = time.monotonic() + SECONDS
        while self.value(query) < least:
            assert time.monotonic() < deadline, f"{query}: {self.value(query)} after {SECONDS} s"
            time.sleep(0.1)


@pytest.fixture(scope="module")
def scraped(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Prometheus]]:
    target = f"127.0.0.1:{free_port()}"
    folder = tmp_path_factory.mktemp("prometheus")
    with Node(options=("--metrics", target)) as node, Prometheus(programs, folder, target) as prometheus:
        yield node, prometheus


def test_prometheus_sees_pods_start_run_and_end(scraped: tuple[Node, Prometheus]) -> None:
    node, prometheus = scraped
    prometheus.until('up{job="wasm-sandboxer"}', 1)
    with node.pod() as pod:
        assert isinstance(pod, Pod)
        running = pod.run("sleep", "1000")
        prometheus.until('wasm_sandboxer_containers{state="running"}', 1)
        prometheus.until('wasm_sandboxer_start_stage_seconds_count{stage="ready"}', 1)
        prometheus.until('wasm_sandboxer_calls_under_way{api="sandbox",method="Wait"}', 1)
        ended = pod.run("exit", "7")
        ended.wait()
        prometheus.until('wasm_sandboxer_exits_total{kind="nonzero"}', 1)
        running.remove()
    prometheus.until('wasm_sandboxer_exits_total{kind="signal"}', 1)
    assert prometheus.value("scrape_duration_seconds") < 1


def test_no_query_of_the_dashboard_is_wrong(scraped: tuple[Node, Prometheus]) -> None:
    """Prometheus takes each; and each metric in it is one that the daemon has."""
    _, prometheus = scraped
    prometheus.until('up{job="wasm-sandboxer"}', 1)
    names = set(prometheus.ask("label/__name__/values"))  # type: ignore[call-overload]
    dashboard = json.loads((PACKAGING / "prometheus/dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(queries) > 10
    for query in queries:
        filled = query.replace("$__rate_interval", "1m").replace("$instance", ".*")
        prometheus.ask("query", query=filled)
        used = {word for word in filled.replace("{", " ").replace("(", " ").split() if word.startswith("wasm_")}
        assert {word.rstrip(")").partition("[")[0] for word in used} <= names


def test_promtool_finds_nothing_wrong(programs: Path, scraped: tuple[Node, Prometheus]) -> None:
    folder = PACKAGING / "prometheus"
    for words in (["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]):
        done = subprocess.run([programs / "promtool", *words], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_takes_what_is_served(programs: Path, scraped: tuple[Node, Prometheus]) -> None:
    _, prometheus = scraped
    with urllib.request.urlopen(f"http://{prometheus.target}/metrics", timeout=SECONDS) as response:
        text = response.read()
    command = [programs / "promtool", "check", "metrics"]
    done = subprocess.run(command, input=text, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
