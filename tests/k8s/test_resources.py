"""Limits of pods, as the cluster sees them."""

from __future__ import annotations

from typing import Any

from .kubectl import Kubectl


def ended(kubectl: Kubectl, name: str) -> dict[str, Any]:
    """How a pod's one container ended."""
    path = "jsonpath={.status.containerStatuses[0].state.terminated}"
    kubectl.run("wait", f"pod/{name}", f"--for={path}", "--timeout=60s")
    state: dict[str, Any] = kubectl.get("pod", name)["status"]["containerStatuses"][0]["state"]["terminated"]
    return state
