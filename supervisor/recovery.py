"""What a new supervisor does with what the one before it left: join it to what really runs."""

from __future__ import annotations

import logging
import time

from sandbox_api.interface import Exit

from . import rootfs
from .cgroups import Hierarchy
from .launcher import Inventory
from .process import ALIVE, ProcessState
from .reaper import Reaper
from .registry import Registry
from .store import Store

log = logging.getLogger(__name__)

UNKNOWN_STATUS = 255
"""Reported for an instance whose end nobody saw. It is logged as such."""


def reconcile(registry: Registry, store: Store, reaper: Reaper, hierarchy: Hierarchy, inventory: Inventory) -> None:
    """Fill the registry from the store, and bring every process to the state it is really in."""
    for sandbox in store.sandboxes():
        registry.sandboxes[sandbox.namespace, sandbox.id] = sandbox
    recorded = list(store.containers())
    for container, cgroup in recorded:  # all of them first: parents go with the last that holds them
        container.cgroup = hierarchy.attach(cgroup) if cgroup else None
    for container, _ in recorded:
        home = registry.sandboxes.get((container.namespace, container.sandbox_id))
        if home is None:
            rootfs.unmount(store.recorded(container).plan)
            if container.cgroup is not None:
                container.cgroup.delete()
            store.remove_container(container)
        else:
            registry.add(home, container)
    ended = {each.instance for each in inventory.ended}
    lost = []
    for instance, (_, process) in registry.processes.items():
        if instance in inventory.running:
            process.pid, process.state = inventory.running[instance], ProcessState.RUNNING
        elif process.state in ALIVE and instance not in ended:
            process.state, process.exit = ProcessState.STOPPED, Exit(UNKNOWN_STATUS, time.time_ns())
            lost.append(process)
            log.warning("%s: it ended while nobody watched; its status is not known", process.name)
    store.update_processes(lost)
    if inventory.ended:
        reaper.exits(inventory.ended)
    if registry.sandboxes:
        log.info("recovered %d sandboxes, %d containers", len(registry.sandboxes), len(registry.containers))
