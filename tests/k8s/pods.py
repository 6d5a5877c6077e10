"""Pods, deployments and jobs of WASM images, as values for ``Kubectl.apply``."""

from __future__ import annotations

from typing import Any


def container(image: str, *args: str, name: str = "c", **more: Any) -> dict[str, Any]:
    """A container of a guest's image, which is never pulled."""
    return {"name": name, "image": f"{image}:e2e", "imagePullPolicy": "Never", "args": list(args), **more}


def pod_spec(*containers: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A container of a pod, run by the sandboxer."""
    return {"runtimeClassName": "wasm", "terminationGracePeriodSeconds": 1, "containers": list(containers), **more}


def pod(name: str, *containers: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A pod that is not restarted."""
    spec = pod_spec(*containers, **{"restartPolicy": "Never", **more})
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def deployment(name: str, replicas: int, *containers: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A deployment of such pods."""
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": pod_spec(*containers, **more)}
    spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}


def job(name: str, *containers: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A job that is tried once."""
    template = {"spec": pod_spec(*containers, restartPolicy="Never")}
    spec = {"backoffLimit": 0, "template": template, **more}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}
