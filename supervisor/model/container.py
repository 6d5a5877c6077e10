"""A container: a spec, a root file system, an init process, and the execs in it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..cgroups import Cgroup
from .process import ALIVE, Process


@dataclass(slots=True, eq=False)
class Container:
    """One container, from Create to Delete. Its spec is in the store, not here: a node has many."""

    namespace: str
    id: str
    sandbox_id: str
    bundle: str
    init: Process
    cgroup: Cgroup | None = None
    """Its control group, where its spec names one or asks for limits."""
    spec_limits: bool = False
    """Its limits are known to be those of its spec: this supervisor made it, and nobody has changed them since."""
    oom_kills: int = 0
    """Kills for memory that were reported already."""
    execs: dict[str, Process] | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held for every change of its state, except signals: they must always get through."""

    def processes(self) -> Iterator[Process]:
        """The init process and every exec."""
        yield self.init
        if self.execs:
            yield from list(self.execs.values())

    def alive(self) -> list[Process]:
        """Its running and paused processes."""
        return [process for process in self.processes() if process.state in ALIVE]
