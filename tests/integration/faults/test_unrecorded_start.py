"""A start whose outcome finds no room in the state file: an error that says so, and nothing runs."""

from __future__ import annotations

import pytest

from sandbox_api.errors import Internal

from ...chaos.node import Node
from ...harness.compiled import until
from ...harness.container import Pod


@pytest.mark.parametrize("guest", ["sleep", "exit"])
def test_what_cannot_be_recorded_is_killed_or_has_ended(guest: str) -> None:
    with Node() as daemon:
        pod = Pod(daemon)
        container = pod.with_wasm(guest).build()
        with daemon.full_disk(), pytest.raises(Internal, match=r"started, but not recorded .*full"):
            container.start()
        until("it is recorded", lambda: container.status() == "STOPPED")
        assert container.wait() in ((137,) if guest == "sleep" else (0, 137))
        assert daemon.workers() == []
        container.delete()
        pod.shutdown()
        pod.close()
