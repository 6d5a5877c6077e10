"""Outputs that go to files are appended to, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from supervisor.seccomp.allowed import log_filter

from ...harness.bare_forkserver import (
    BareForkserver,
    refused,
)
from ...harness.container import Container, Pod

SPOILING = ["truncate", "punch", "date", "overwrite", "duplicate", "duplicate onto", "duplicate by fcntl", "place"]


@pytest.mark.parametrize("how", SPOILING)
def test_a_log_is_append_only(forkserver: BareForkserver, tmp_path: Path, how: str) -> None:
    """Containers' outputs may go to files; what is not a file is no business of this filter's."""
    log = tmp_path / "log"
    log.write_text("said before\n")
    os.utime(log, (1000, 1000))
    fd = os.open(log, os.O_WRONLY | os.O_APPEND)
    outcome = forkserver.run("spoil_log", how, stdout=fd, seccomp=[log_filter()])
    os.close(fd)
    assert (outcome.report, outcome.status) == ("R", 0), outcome
    said = {"place": "overdone"}.get(how, "EPERM")
    assert log.read_text() == f"said before\n{said}\n"
    assert log.stat().st_mtime > 1000


def test_a_file_of_the_guests_own_is_not_a_log(forkserver: BareForkserver, folders: list[tuple[Path, bool]]) -> None:
    assert refused(forkserver.run("truncate", "0", "file", folders=folders, seccomp=[log_filter()])) == "done 3"


def test_a_container_with_a_log_has_that_filter(pod: Pod) -> None:
    def filters(container: Container) -> int:
        status = Path(f"/proc/{container.pid}/status").read_text()
        return int(status.partition("Seccomp_filters:")[2].split()[0])

    logged = pod.with_wasm("sleep").build().start()
    plain = pod.with_wasm("sleep").streams(stdout="", stderr="").build().start()
    assert filters(logged) == filters(plain) + 1
