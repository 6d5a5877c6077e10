"""Prepare, Purge and ``extensions.tasks``: what a client hands over before Task Create and Exec.

A prepared container gets a bundle below --dir. The Task Create that follows may name that bundle or the
client's own; it takes root file system and streams from here where it does not bring them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Iterable

from sandbox_api.errors import AlreadyExists, FailedPrecondition, NotFound
from sandbox_api.interface import Preparation

from ..host.errors import for_errno
from ..model.prepared import Prepared
from ..model.process import ProcessState
from ..model.registry import Registry, check_id
from ..model.sandbox import Sandbox, SandboxState
from ..oci import spec as oci
from ..oci import streams
from ..state.store import Store
from .containers import ContainerManager

log = logging.getLogger(__name__)


class Preparations:
    """Records what is handed over, and undoes it."""

    def __init__(self, folder: str, registry: Registry, store: Store, containers: ContainerManager) -> None:
        self._folder = folder
        self._registry = registry
        self._store = store
        self._containers = containers

    def prepare(self, sandbox: Sandbox, new: Preparation) -> str:
        """Record a container, or an exec in one; the path of the container's bundle. Raises a ``SandboxerError``."""
        sandbox.require("prepare a container in it", SandboxState.READY)
        check_id("container", new.container_id)
        if new.exec_id:
            check_id("exec", new.exec_id)
        what = _name(new.container_id, new.exec_id)
        if self._store.prepared(sandbox.namespace, new.container_id, new.exec_id):
            raise AlreadyExists(f"{what}: prepared already")
        if not new.exec_id and (sandbox.namespace, new.container_id) in self._registry.containers:
            raise AlreadyExists(f"container {new.container_id}: there is one already")
        (oci.parse_exec if new.exec_id else oci.parse)(new.spec)
        streams.check(new.stdio)
        bundle = f"{self._folder}/bundles/{sandbox.namespace}/{new.container_id}"
        prepared = Prepared(sandbox.id, new.container_id, new.exec_id, new.spec, new.rootfs, new.stdio, bundle)
        self._store.add_prepared(sandbox.namespace, prepared)
        if not new.exec_id:
            try:
                os.makedirs(prepared.root, mode=0o711)
                with open(f"{bundle}/config.json.new", "xb") as file:
                    file.write(new.spec)
                os.rename(f"{bundle}/config.json.new", f"{bundle}/config.json")  # whole, or not there
            except OSError as error:
                self._forget(sandbox.namespace, prepared)
                raise for_errno(error, FailedPrecondition)(f"{what}: {error.filename}: {error.strerror}") from None
        log.info("prepared %s sandbox=%s", what, sandbox.id)
        return bundle

    async def purge(self, sandbox: Sandbox, container_id: str, exec_id: str) -> None:
        """Undo a preparation, and delete what was created from it.

        Raises ``NotFound`` where there is none, ``FailedPrecondition`` while it runs.
        """
        what = _name(container_id, exec_id)
        prepared = self._store.prepared(sandbox.namespace, container_id, exec_id)
        if prepared is None or prepared.sandbox_id != sandbox.id:
            raise NotFound(f"{what}: sandbox {sandbox.id} has nothing prepared of that id")
        container = self._registry.containers.get((sandbox.namespace, container_id))
        if container is not None and not exec_id:
            async with container.lock:
                for process in container.processes():
                    process.require("purge it", ProcessState.CREATED, ProcessState.STOPPED)
                await self._containers.remove(container)
        await self._remove(sandbox.namespace, prepared)
        if not exec_id:
            for each in self._store.all_prepared(sandbox.namespace, sandbox.id):
                if each.container_id == container_id:
                    await self._remove(sandbox.namespace, each)
        log.info("purged %s", what)

    async def replace(self, sandbox: Sandbox, wanted: Iterable[Preparation]) -> None:
        """Make the sandbox's preparations this whole list: what is new is prepared, what is gone is purged."""
        names = {(new.container_id, new.exec_id): new for new in wanted}
        known = {(each.container_id, each.exec_id) for each in self._store.all_prepared(sandbox.namespace, sandbox.id)}
        for container_id, exec_id in sorted(known - names.keys(), key=lambda name: not name[1]):  # execs first
            if self._store.prepared(sandbox.namespace, container_id, exec_id):
                await self.purge(sandbox, container_id, exec_id)
        made = []
        try:
            for name, new in names.items():
                if name not in known:
                    self.prepare(sandbox, new)
                    made.append(name)
        except BaseException:
            for name in reversed(made):
                await self.purge(sandbox, *name)
            raise

    def forget_unfinished(self, sandbox: Sandbox) -> None:
        """Undo preparations that a supervisor did not live to finish: nobody was told of them."""
        for prepared in self._store.all_prepared(sandbox.namespace, sandbox.id):
            if not prepared.exec_id and not os.path.exists(f"{prepared.bundle}/config.json"):
                self._forget(sandbox.namespace, prepared)

    async def forget_all(self, sandbox: Sandbox) -> None:
        """Undo every preparation of a sandbox that is shut down. Its containers are gone."""
        for prepared in self._store.all_prepared(sandbox.namespace, sandbox.id):
            await self._remove(sandbox.namespace, prepared)

    async def _remove(self, namespace: str, prepared: Prepared) -> None:
        """Undo a preparation whose bundle a guest may have filled."""
        if not prepared.exec_id:
            await asyncio.to_thread(shutil.rmtree, prepared.bundle, ignore_errors=True)
        self._forget(namespace, prepared)

    def _forget(self, namespace: str, prepared: Prepared) -> None:
        if not prepared.exec_id:
            shutil.rmtree(prepared.bundle, ignore_errors=True)  # nothing is mounted in it any more
        self._store.remove_prepared(namespace, prepared)


def _name(container_id: str, exec_id: str) -> str:
    return f"container {container_id}, exec {exec_id}" if exec_id else f"container {container_id}"
