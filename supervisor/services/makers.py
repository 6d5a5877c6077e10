"""The engine that made a container, and its name there, from the annotations that each engine writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..model.container import Container
from ..model.labels import IMAGE_ANNOTATION, MAKER_LABEL, RUN
from ..model.sandbox import Sandbox

CONTAINERD, ISULAD, CRIO, UNKNOWN = "containerd", "isulad", "cri-o", "-"

_NAME = ("io.kubernetes.cri.container-name", "io.kubernetes.container.name", "io.kubernetes.cri-o.ContainerName")
_IMAGE = (IMAGE_ANNOTATION, "io.kubernetes.cri.image-name", "io.kubernetes.cri-o.ImageName")
_RESTARTS = "io.kubernetes.container.restartCount"
_MOST_CHARACTERS = 4096  # thousands of origins are remembered, and a spec may have a megabyte of arguments
_LOG_FILE, _LOG_DRIVER = "log.console.file", "log.console.driver"


@dataclass(frozen=True, slots=True)
class Origin:
    """The maker of a container, and its name there."""

    maker: str
    name: str
    """In its engine; "" where that does not say."""
    image: str
    command: str
    restarts: int
    log: dict[str, str]
    """``path`` and ``format`` (json-file, raw) of what it writes; or ``hint``, where that is not here."""


def of_sandbox(sandbox: Sandbox) -> str:
    """The maker that a sandbox itself names; "" where it does not."""
    return sandbox.labels.get(MAKER_LABEL, "")


def pod_name(labels: Mapping[str, str]) -> str:
    """A pod's name in Kubernetes, with its namespace; "" outside of it."""
    name, namespace = labels.get("io.kubernetes.pod.name", ""), labels.get("io.kubernetes.pod.namespace", "")
    return f"{namespace}/{name}" if name and namespace else name


def origin(container: Container, sandbox: Sandbox | None, config: Mapping[str, Any]) -> Origin:
    """Find a container's maker by its config.json."""
    annotations: Mapping[str, str] = config.get("annotations") or {}
    maker = (of_sandbox(sandbox) if sandbox else "") or _maker(container, annotations)
    args = (config.get("process") or {}).get("args") or []
    return Origin(
        maker=maker,
        name=_first(annotations, _NAME),
        image=_first(annotations, _IMAGE),
        command=" ".join(map(str, args))[:_MOST_CHARACTERS],
        restarts=_number(annotations.get(_RESTARTS, "")),
        log=_log(container, maker, annotations),
    )


def _maker(container: Container, annotations: Mapping[str, str]) -> str:
    # CRI's annotations are containerd's own; iSulad writes both, and its log's name beside them
    if "cri.sandbox.id" in annotations or _LOG_FILE in annotations:
        return ISULAD
    if any(key.startswith("io.kubernetes.cri-o.") for key in annotations):
        return CRIO
    if "io.containerd." in container.bundle or "io.kubernetes.cri.container-type" in annotations:
        return CONTAINERD
    return UNKNOWN


def _log(container: Container, maker: str, annotations: Mapping[str, str]) -> dict[str, str]:
    stdout = container.init.stdio.stdout
    if annotations.get(_LOG_FILE) and annotations.get(_LOG_DRIVER, "json-file") == "json-file" and not stdout:
        return {"path": str(annotations[_LOG_FILE]), "format": "json-file"}
    if stdout.startswith("file://"):
        return {"path": stdout.removeprefix("file://"), "format": "raw"}
    if maker == CONTAINERD:
        return {"hint": f"containerd keeps them: crictl logs {container.id}, or below /var/log/pods"}
    if maker == RUN:
        return {"hint": "they went to the terminal of the run that started it: use run -d to have them kept"}
    return {"hint": "its engine has its streams" if stdout else "its output goes nowhere (/dev/null)"}


def _first(annotations: Mapping[str, str], keys: tuple[str, ...]) -> str:
    return next((str(annotations[key])[:_MOST_CHARACTERS] for key in keys if annotations.get(key)), "")


def _number(text: object) -> int:
    """A number of at most nine digits: engines count so far, and int() has a bound of its own."""
    return int(text) if isinstance(text, str) and text.isdecimal() and len(text) < 10 else 0
