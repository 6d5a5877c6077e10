"""Frames between the daemon and its helpers that come twice: nothing is done twice, and nothing is lost.

What is lost with its connection is the chaos run's (``tests/chaos``), and so are clients' frames.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from ...harness.container import Pod
from ...harness.daemon import Daemon
from ...harness.helpers import started_in_time
from ..test_container_log import (  # noqa: F401
    test_a_dead_logger_loses_nothing_that_was_not_in_its_hands,
    test_a_guests_lines_are_in_the_log_when_wait_answers,
    test_a_log_goes_on_without_a_supervisor,
)
from .test_recovery import (  # noqa: F401
    test_a_client_that_waits_gets_its_answer_on_the_same_connection,
    test_a_paused_container_stays_paused,
    test_a_terminal_goes_on,
    test_exits_while_nobody_was_there_are_told_with_status_and_time,
    test_instances_do_not_notice_that_the_supervisor_goes,
    test_the_forkserver_dies_and_instances_go_on,
)


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    made = Daemon()
    made.program = ["-m", "tests.harness.repeating"]
    with made:
        yield made


@pytest.fixture
def fresh(pod: Pod) -> Pod:
    return pod


def test_a_start_that_comes_twice_runs_once(daemon: Daemon) -> None:
    daemon.environment["REPEAT_STARTS"] = "1"
    daemon.kill()
    daemon.start()
    pod = Pod(daemon)
    running = [started_in_time(pod.with_wasm("sleep").build()) for _ in range(3)]
    assert len(daemon.workers()) == 3
    for each in running:
        each.kill(signal.SIGTERM)
        assert each.wait() == 143
    assert daemon.workers() == []
    pod.shutdown()
    pod.close()
