"""containerd with either runtime, through CRI; and what an idle instance of each peer takes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..e2e import cri_pb2 as pb
from ..e2e.compare import ANNOTATIONS, CRUN_CONFIG, PAUSE, Clock, one_round, pause_archive
from ..e2e.node import Node
from ..harness.guests import guest
from . import programs, rivals
from .figures import KIB, OURS, Figure, kib, milliseconds
from .machine import settled
from .options import Options
from .progress import Progress
from .rivals import CRUN, NOT_INSTALLED, WASMEDGE, Job
from .site import Crowd, Site

SECTION = "peers"
WITH_OURS, WITH_CRUN = f"containerd + {OURS}", "containerd + crun with WasmEdge"
RUNTIMES = {"wasm": WITH_OURS, "crun": WITH_CRUN}
POD = "pod, container, its output and end"
"""As one_round calls it."""
MEMORY = "memory of an idle instance"
POD_MEMORY = "memory of a pod with an idle container, through CRI"
ROUNDS = 15
OURS_ALIVE, THEIRS_ALIVE = 500, 60
PODS = {"wasm": 100, "crun": 40}


def measure(options: Options, progress: Progress) -> Iterator[Figure]:
    """Times of CRI's operations, and memory by few instances: it is large."""
    yield from _programs(options, progress)
    if rivals.containerd() and rivals.crun():
        yield from _containerd(options, progress)
    else:
        for subject in RUNTIMES.values():
            yield milliseconds(SECTION, POD, subject, (), note=NOT_INSTALLED)
            yield Figure(SECTION, POD_MEMORY, subject, KIB, note=NOT_INSTALLED)


def _programs(options: Options, progress: Progress) -> Iterator[Figure]:
    """The same sleeping guest, as machine code."""
    many, count = options.rounds(OURS_ALIVE), options.rounds(THEIRS_ALIVE)
    sleep = guest("sleep")
    programs.warm(sleep)
    job = Job(programs.product(sleep), ("1000000",))
    progress.part(f"{SECTION}: memory of {many} instances, and of {count} of each peer")
    with Site(cache=programs.AOT) as site, rivals.crun_in(site.daemon.folder / "crun") as crun:
        crowd = Crowd(site, site.workload(sleep, *job.args))
        yield _memory(OURS, many, lambda: [None for _ in crowd.grow(many)], options)
        site.shutdown()
        crowd.close()
        if rivals.wasmedge():
            command = rivals.wasmedge_command(job)
            with _ended() as pids:
                yield _memory(WASMEDGE, count, lambda: pids.extend(command.spawn() for _ in range(count)), options)
        else:
            yield Figure(SECTION, MEMORY, WASMEDGE, KIB, note=NOT_INSTALLED)
        if crun:
            bundle = crun.bundle(job)
            yield _memory(
                CRUN, count, lambda: [crun.run(bundle, detach=True).run_to_end() for _ in range(count)], options
            )
        else:
            yield Figure(SECTION, MEMORY, CRUN, KIB, note=NOT_INSTALLED)


def _memory(subject: str, count: int, start: Callable[[], object], options: Options, what: str = MEMORY) -> Figure:
    before = settled(options.settle)["MemAvailable"]
    start()
    after = settled(options.settle)["MemAvailable"]
    return kib(SECTION, what, (before - after) / count, subject=subject, note=f"of {count}")


@contextmanager
def _ended() -> Iterator[list[int]]:
    """Pids of children that are ended when the block is left."""
    pids: list[int] = []
    try:
        yield pids
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _containerd(options: Options, progress: Progress) -> Iterator[Figure]:
    clocks = {handler: Clock() for handler in RUNTIMES}
    rounds = options.rounds(ROUNDS)
    with Node(extra=CRUN_CONFIG.format(crun=rivals.crun(), pause=PAUSE), peers=True) as node:
        archive = node.sandboxer.folder / "pause.tar"
        pause_archive(archive)
        node.load(archive, PAUSE)
        for handler in clocks:
            one_round(node, handler, Clock())  # the first is slower with both, and tells nothing
        for handler, subject in RUNTIMES.items():
            pods = Pods(node, handler, options.rounds(PODS[handler]))
            progress.part(f"{SECTION}: memory of {pods.count} pods: {subject}")
            yield _memory(subject, pods.count, pods.run, options, POD_MEMORY)
            pods.remove()
        progress.part(f"{SECTION}: CRI operations on containerd")
        for number in range(rounds):
            for handler, clock in clocks.items():
                one_round(node, handler, clock)
            progress.step(number + 1, rounds)
        for name in clocks["wasm"].times:
            for handler, subject in RUNTIMES.items():
                yield milliseconds(SECTION, name, subject, clocks[handler].times[name])


class Pods:
    """Pods with a sleeping container each."""

    def __init__(self, node: Node, handler: str, count: int) -> None:
        self.count = count
        self._node = node
        self._handler = handler
        self._made: list[tuple[str, str]] = []

    def run(self) -> None:
        """Start them."""
        for _ in range(self.count):
            config = self._node.pod_config()
            pod = self._node.cri.run_pod(config, self._handler)
            image = pb.ImageSpec(image=self._node.image("sleep"))
            metadata = pb.ContainerMetadata(name="sleep")
            container = pb.ContainerConfig(metadata=metadata, image=image, annotations=ANNOTATIONS, log_path="log")
            made = self._node.cri.create(pod, container, config)
            self._node.cri.start(made)
            self._made.append((pod, made))

    def remove(self) -> None:
        """Remove them all."""
        for pod, container in self._made:
            self._node.discard(container)
            self._node.cri.stop_pod(pod)
            self._node.cri.remove_pod(pod)
