"""Control groups that another program of the host removes, since nobody is in them yet."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from ...harness.container import Pod
from ...harness.daemon import Daemon
from ...harness.helpers import forkserver, until_it_asks_a_zygote, zygote
from .groups import NAME, ROOT, Join, needs_root, needs_v1

pytestmark = [needs_root, needs_v1]


@pytest.fixture
def daemon(join: Join) -> Iterator[Daemon]:
    with Daemon("--aot", "never", "--engine", "auto") as running:
        yield running


def test_a_shared_group_that_goes_while_the_worker_is_forked_is_made_again(daemon: Daemon, pod: Pod) -> None:
    container = pod.with_wasm("sleep").linux(cgroupsPath=f"/{NAME}/pod/abc").build()
    pod.with_wasm("exit").args("0").build().start().wait()  # from then on there is a zygote
    stopped = zygote(daemon)
    stopped.suspend()
    with ThreadPoolExecutor(1) as starter:
        try:
            starting = starter.submit(container.start)
            until_it_asks_a_zygote(forkserver(daemon).pid)
            for group in ROOT.glob(f"*/{NAME}/pod"):
                group.rmdir()
        finally:
            stopped.resume()
        starting.result(20)
    assert str(container.pid) in (ROOT / "memory" / NAME / "pod" / "cgroup.procs").read_text().split()
    container.kill(9)
    assert container.wait() == 137
    container.delete()
    assert list(ROOT.glob(f"*/{NAME}")) == []
