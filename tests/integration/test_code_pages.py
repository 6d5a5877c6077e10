"""No page of a worker's can be both written to and executed, be it by two mappings."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..harness.bare_forkserver import BareForkserver
from ..harness.compiled import Node
from ..harness.container import Pod
from ..harness.daemon import Daemon
from ..harness.guests import guest
from ..harness.helpers import forkserver, zygote
from .test_images_of_modules import started_from_image


def writable_code(pid: int) -> list[str]:
    """The mappings that can be written to and executed, and writable shared ones of files that have code."""
    lines = [line.split(maxsplit=5) for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    code = {tuple(line[3:5]) for line in lines if "x" in line[1] and line[4] != "0"}
    both = [line for line in lines if "w" in line[1] and "x" in line[1]]
    aliases = [line for line in lines if "w" in line[1] and "s" in line[1] and tuple(line[3:5]) in code]
    return [" ".join(line) for line in (*both, *aliases)]


@pytest.mark.parametrize("aot", ["never", "always"])
def test_no_worker_has_code_that_it_can_write_to(aot: str) -> None:
    with Daemon("--aot", aot) as daemon:
        pod = Pod(daemon)
        container = pod.with_wasm("sleep").build().start()
        compiled = (
            ".so (deleted)" in Path(f"/proc/{container.pid}/maps").read_text()
            or str(daemon.cache) in Path(f"/proc/{container.pid}/maps").read_text()
        )
        assert compiled == (aot == "always")
        for pid in (container.pid, zygote(daemon).pid, forkserver(daemon).pid):
            assert writable_code(pid) == []
        daemon.kill()
        daemon.start()  # a new supervisor brings the filters again
        again = pod.with_wasm("sleep").build().start()
        assert writable_code(again.pid) == []
        pod.shutdown()
        pod.close()


def test_no_worker_from_an_image_has_code_that_it_can_write_to(auto: Node) -> None:
    container = started_from_image(auto, "sleep")
    assert writable_code(container.pid) == []


def test_forkserver_ends_well(tmp_path: Path) -> None:
    """At an interpreter's end ctypes gives its functions back, by writing to their pages."""
    bare = BareForkserver(broken_out=False)
    try:
        assert bare.run("exit", "0", module=guest("exit"), folders=[(tmp_path, True)]).report == "R"
    finally:
        bare.close()
    assert bare.status == 0
