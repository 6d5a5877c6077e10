"""The interface of an engine. Each engine is a folder beside this file, the only place that knows its library.

An engine is loaded once, in the forkserver or in a root zygote of its own. After the fork it acts by calls that it adds
to a worker's list.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..calls.call_list import CallList, Data, Step
    from ..start_request import StartRequest

REFUSED, TRAPPED, EXITED = range(3)
"""Kinds of end: the module is at fault, before any of its code ran; its code trapped; its code called proc_exit."""

TRAP_STATUS = 134
"""A trapped guest's exit status: 128 + SIGABRT, as of the engines' own programs."""


class EngineMissing(Exception):
    """The engine's library cannot be used on this machine; the text says why and what to do."""


class Module:
    """A module as an engine gets it: bytes in memory that is the worker's alone, or a product of its own compiler."""

    __slots__ = ("begin", "length", "product")

    def __init__(self, begin: Data | None = None, length: Data | None = None, product: bytes = b"") -> None:
        self.begin = begin
        """Holds the address of the bytes."""
        self.length = length
        """Holds their number."""
        self.product = product
        """Path of the compiled product; empty where there are bytes."""


class End:
    """How a worker ended within the engine."""

    __slots__ = ("kind", "status", "text")

    def __init__(self, kind: int, text: str = "", status: int = TRAP_STATUS) -> None:
        self.kind = kind
        self.text = text
        self.status = status
        """The process's exit status, where the guest's code ran."""


class Engine:
    """One engine. Raises ``EngineMissing`` when made where its library is missing."""

    name: bytes
    """Its name in start requests."""
    version: str
    proc = b""
    """Prefix of its paths in proc, once primed; empty where paths relative to proc will do."""
    stages: range
    """The labels of its steps that can fail; no other engine's."""
    running = -1
    """The label among them of the step that runs the guest, where its failure is told by ``explain``."""
    threads = False
    """Whether it makes threads while a guest runs. Then it runs products alone: interpreters get no such filter."""
    apart = False
    """Whether it is loaded in its own root zygote, so that no other engine's workers have it in memory."""
    images = False
    """Whether a loaded module can be taken from an image of a process that has loaded it."""
    bare = False
    """Whether a worker that maps an image needs no Python: no step of ``restore`` and ``run`` ends the list."""

    @classmethod
    def installed(cls) -> list[Engine]:
        """The engine, or nothing where this machine lacks it and can do without. Raises ``EngineMissing``."""
        return [cls()]

    @property
    def ready(self) -> bool:
        """Whether call lists can be made for it: primed, or its root zygote's state adopted."""
        return True

    def prime(self) -> None:
        """Do once, in the forkserver, the work that every instance needs and no guest can influence."""
        raise NotImplementedError

    def state(self) -> dict[str, int]:
        """Describe what ``prime`` made, where the engine is ``apart``: numbers by name, addresses among them."""
        raise NotImplementedError

    def adopt(self, state: dict[str, int]) -> None:
        """Take the ``state`` of the one that a root zygote has primed: call lists for its forks are made here."""
        raise NotImplementedError

    def load(self, calls: CallList, module: Module, request: StartRequest, folders: list[int] | None) -> Any:
        """Add calls that parse and validate the module. None of its code runs by them.

        ``folders`` are the descriptors of the request's preopens; a template is given none, and gets no WASI context.
        Answers what ``instantiate`` and ``run`` take.
        """
        raise NotImplementedError

    def restore(self, calls: CallList, values: list[int], request: StartRequest, folders: list[int]) -> Any:
        """Add calls that give a module, which an image has brought instantiated, its WASI context.

        ``values`` are those that ``values`` named in the template. Answers what ``run`` takes.
        """
        raise NotImplementedError

    def restored(self, calls: CallList, values: list[int], request: StartRequest) -> Any:
        """Answers what ``run`` takes, for a list of its own. Only of engines whose workers can be ``bare``."""
        raise NotImplementedError

    def values(self, guest: Any) -> list[Data]:
        """Name the places whose numbers ``restore`` needs."""
        raise NotImplementedError

    def instantiate(self, calls: CallList, guest: Any, request: StartRequest) -> None:
        """Add calls that resolve imports, run a start section, and find the request's function.

        The engine keeps no descriptor of the request's in use after them.
        """
        raise NotImplementedError

    def lend_context(self, calls: CallList, request: StartRequest, folders: list[int]) -> None:
        """Add calls that give the module in a template a WASI context, for ``initialize``."""
        raise NotImplementedError

    def initialize(self, calls: CallList, guest: Any, request: StartRequest) -> None:
        """Add calls that have a template's module initialised, and take its WASI context away.

        They end the process where that fails, or leaves files open: those would be other files in the instances.
        """
        raise NotImplementedError

    def run(self, calls: CallList, guest: Any, command: bool) -> None:
        """Add calls that run the function and end the process with the guest's exit status.

        A module that is no ``command`` (a function of it was asked for by name) is initialised first where it exports
        ``_initialize``, as WASI's application ABI wants. Then the request's own export is called, if it has one. What
        comes from an image has seen both where the request has one.
        """
        raise NotImplementedError

    def explain(self, step: Step, result: int) -> End:
        """Say how one of its steps ended the list."""
        raise NotImplementedError
