"""Prepare, Purge and ``extensions.tasks``: what a client hands over before Task Create and Exec.

A prepared container gets a bundle below --dir. The Task Create that follows may name that bundle or the
client's own; it takes root file system and streams from here where it does not bring them.
"""

from __future__ import annotations

import glob
import hashlib
import logging
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from sandbox_api.errors import AlreadyExists, FailedPrecondition, NotFound
from sandbox_api.interface import NewContainer, NewExec, Preparation

from ..host import errors, folders
from ..model.container import Container
from ..model.prepared import Prepared, key
from ..model.process import ProcessState
from ..model.registry import Registry, check_id
from ..model.sandbox import Sandbox, SandboxState
from ..oci import spec as oci
from ..oci import streams
from ..state.store import Store, StoreFailed
from .containers import ContainerManager
from .execs import Execs

log = logging.getLogger(__name__)


class Preparations:
    """Records preparations and undoes them."""

    def __init__(
        self, folder: str, registry: Registry, store: Store, containers: ContainerManager, execs: Execs
    ) -> None:
        self._folder = folder
        self._registry = registry
        self._store = store
        self._containers = containers
        self._execs = execs

    def prepare(self, sandbox: Sandbox, new: Preparation) -> str:
        """Record a container, or an exec in one, in place of an earlier preparation from which nothing was created.

        The path of the container's bundle. Raises a ``SandboxerError``.
        """
        self._check(sandbox, new)
        return self._prepare(sandbox, new, listed=False)

    async def purge(self, sandbox: Sandbox, container_id: str, exec_id: str) -> None:
        """Undo a preparation, and delete what was created from it; a running exec is deleted when it ends.

        Done where there is nothing to undo: a client cannot tell a lost answer from a failure. Raises ``NotFound``
        where it belongs to another sandbox, ``FailedPrecondition`` while the container runs.
        """
        what = _name(container_id, exec_id)
        prepared = self._store.prepared(sandbox.namespace, container_id, exec_id)
        if prepared is not None and prepared.sandbox_id != sandbox.id:
            raise NotFound(f"{what}: it is prepared in sandbox {prepared.sandbox_id}, not in {sandbox.id}")
        container = sandbox.containers.get(container_id)
        if exec_id and container is not None and exec_id in (container.execs or {}):
            self._execs.purge(container, (container.execs or {})[exec_id])
        elif not exec_id and container is not None and prepared is not None:
            async with container.lock:
                if sandbox.containers.get(container_id) is container:  # or it was deleted while we waited
                    for process in container.processes():
                        process.require("purge it", ProcessState.CREATED, ProcessState.STOPPED)
                    await self._containers.remove(container)
        for each in self._store.all_prepared(sandbox.namespace, sandbox.id):
            if each.key == (container_id, exec_id) or (not exec_id and each.key[0] == container_id):
                await self._remove(sandbox.namespace, each)
        log.info("purged %s", what)

    async def replace(self, sandbox: Sandbox, wanted: Iterable[Preparation]) -> None:
        """Make this list the sandbox's preparations: prepare new entries, purge missing ones.

        iSulad 2.1.6 lists a container that ended by itself for ever. Once that was deleted it is left out, unless the
        list has something else for its id.
        """
        names = {key(new): new for new in wanted}
        known = {each.key: each for each in self._store.all_prepared(sandbox.namespace, sandbox.id)}
        fresh = []
        for name, new in names.items():
            old = known.get(name)
            changed = old is not None and (old.digest != _digest(new) or _unfinished(old))
            if old is None or (changed and not self._exists(sandbox.namespace, *name)):
                self._check(sandbox, new)
                fresh.append(name)
        for name in sorted(known.keys() - names.keys(), key=lambda name: not name[1]):  # execs first
            await self.purge(sandbox, *name)
        made = []
        try:
            for name in fresh:
                self._prepare(sandbox, names[name], listed=True)
                made.append(name)
        except BaseException:
            for name in reversed(made):
                await self.purge(sandbox, *name)
            raise

    async def spend(self, container: Container) -> None:
        """Forget the preparations of a container that was deleted.

        Listed ones leave a mark, since the next list has them again.
        """
        try:
            for prepared in self._store.all_prepared(container.namespace, container.sandbox_id):
                if prepared.key[0] != container.id or prepared.spent:
                    continue
                spent = replace(prepared, new=_emptied(prepared.new), bundle="") if prepared.listed else None
                await self._remove(container.namespace, prepared, spent)
        except StoreFailed as error:  # they go with their sandbox
            log.warning("container %s: its preparation is kept: %s", container.id, error)

    def forget_unfinished(self, sandbox: Sandbox) -> None:
        """Undo preparations that a dead supervisor left half done: no client was answered."""
        for prepared in self._store.all_prepared(sandbox.namespace, sandbox.id):
            if _unfinished(prepared):
                self._forget(sandbox.namespace, prepared)

    def sweep(self) -> None:
        """Remove bundles that a dead supervisor left set aside."""
        for left in glob.glob(f"{glob.escape(self._folder)}/bundles/*/.*"):
            folders.remove_tree(left)

    async def forget_all(self, sandbox: Sandbox) -> None:
        """Undo every preparation of a sandbox that is shut down. Its containers are gone."""
        for prepared in self._store.all_prepared(sandbox.namespace, sandbox.id):
            await self._remove(sandbox.namespace, prepared)

    def _check(self, sandbox: Sandbox, new: Preparation) -> None:
        """Refuse what cannot be prepared, before anything is changed. Raises a ``SandboxerError``."""
        sandbox.require("prepare a container in it", SandboxState.READY)
        check_id("container", new.container_id)
        if isinstance(new, NewExec):
            check_id("exec", new.exec_id)
        what = _name(*key(new))
        if self._exists(sandbox.namespace, *key(new)):
            raise AlreadyExists(f"{what}: there is one already")
        prepared = self._store.prepared(sandbox.namespace, *key(new))
        if prepared is not None and prepared.sandbox_id != sandbox.id:
            raise AlreadyExists(f"{what}: prepared already, in sandbox {prepared.sandbox_id}")
        (oci.parse_exec if isinstance(new, NewExec) else oci.parse)(new.spec)
        streams.check(new.stdio)

    def _prepare(self, sandbox: Sandbox, new: Preparation, listed: bool) -> str:
        what = _name(*key(new))
        earlier = self._store.prepared(sandbox.namespace, *key(new))
        if earlier is not None:
            self._forget(sandbox.namespace, earlier)
        bundle = f"{self._folder}/bundles/{sandbox.namespace}/{new.container_id}"
        prepared = Prepared(sandbox.id, new, bundle, listed, _digest(new) if listed else "")
        self._store.add_prepared(sandbox.namespace, prepared)
        if isinstance(new, NewContainer):
            try:
                os.makedirs(prepared.root, mode=0o711)
                with open(f"{bundle}/config.json.new", "xb") as file:
                    file.write(new.spec)
                os.rename(f"{bundle}/config.json.new", f"{bundle}/config.json")  # whole, or not there
            except OSError as error:
                self._forget(sandbox.namespace, prepared)
                raise errors.for_errno(error, FailedPrecondition)(
                    f"{what}: {error.filename}: {error.strerror}"
                ) from None
        log.info("prepared %s sandbox=%s", what, sandbox.id)
        return bundle

    def _exists(self, namespace: str, container_id: str, exec_id: str) -> bool:
        """Whether there is such a container, or such an exec in it."""
        container = self._registry.containers.get((namespace, container_id))
        return container is not None and (not exec_id or exec_id in (container.execs or {}))

    async def _remove(self, namespace: str, prepared: Prepared[Any], spent: Prepared[Any] | None = None) -> None:
        """Undo a preparation whose bundle a guest may have filled: set it aside, free its id, then remove it.

        ``spent`` replaces it on record.
        """
        aside = ""
        if not prepared.key[1] and not prepared.spent:
            folder, name = os.path.split(prepared.bundle)
            aside = f"{folder}/.{name}.{time.monotonic_ns()}"
            with suppress(FileNotFoundError):
                os.rename(prepared.bundle, aside)
        try:
            if spent is None:
                self._store.remove_prepared(namespace, prepared)
            else:
                self._store.add_prepared(namespace, spent)
        except StoreFailed:
            with suppress(FileNotFoundError):
                os.rename(aside, prepared.bundle)
            raise
        if aside:
            await self._containers.aside(folders.remove_tree, aside)

    def _forget(self, namespace: str, prepared: Prepared[Any]) -> None:
        if not prepared.key[1] and not prepared.spent:
            folders.remove_tree(prepared.bundle)  # nothing is mounted in it any more
        self._store.remove_prepared(namespace, prepared)


def _unfinished(prepared: Prepared[Any]) -> bool:
    """Whether its bundle was not made, or is removed: by a supervisor that died, or found no room on the disk."""
    return not prepared.spent and not prepared.key[1] and not os.path.exists(f"{prepared.bundle}/config.json")


def _digest(new: Preparation) -> str:
    """Tells one preparation from another of the same id."""
    return hashlib.sha256(repr(new).encode()).hexdigest()


def _emptied(new: Preparation) -> Preparation:
    """Nothing but the ids."""
    return NewExec(*key(new), b"") if isinstance(new, NewExec) else NewContainer(new.container_id, b"")


def _name(container_id: str, exec_id: str) -> str:
    return f"container {container_id}, exec {exec_id}" if exec_id else f"container {container_id}"
