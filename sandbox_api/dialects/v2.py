"""Dialect v2: containerd 2.x, iSulad 2.1.6 and later (``proto/controller.proto``)."""

from __future__ import annotations

from ..convert import decode, metric, pod_config, timestamp
from ..errors import InvalidArgument
from ..interface import NewSandbox
from ..proto import controller_pb2 as pb
from ..proto import types_pb2
from . import extension
from .dialect import Dialect, Host

TASK_API_VERSION = 3
"""With less, containerd 2.0.6 and later look for a shim program instead of using the address."""


async def _create(host: Host, namespace: str, payload: bytes) -> bytes:
    request = decode(pb.ControllerCreateRequest, payload)
    sandbox_id = request.sandbox_id or request.sandbox.sandbox_id
    await host.sandboxes.create(
        namespace,
        NewSandbox(
            id=sandbox_id,
            netns=request.netns_path,
            config=request.options.value,
            pod=pod_config(request.options),
            annotations=dict(request.annotations),
            labels=dict(request.sandbox.labels),
        ),
    )
    return pb.ControllerCreateResponse(sandbox_id=sandbox_id).SerializeToString()


async def _start(host: Host, namespace: str, payload: bytes) -> bytes:
    request = decode(pb.ControllerStartRequest, payload)
    info = await host.sandboxes.start(namespace, request.sandbox_id)
    return pb.ControllerStartResponse(
        sandbox_id=info.id,
        pid=info.pid,
        created_at=timestamp(info.created_at),
        labels=info.labels,
        address=f"ttrpc+unix://{info.task_socket}",
        version=TASK_API_VERSION,
    ).SerializeToString()


async def _platform(host: Host, namespace: str, payload: bytes) -> bytes:
    request = decode(pb.ControllerPlatformRequest, payload)
    platform = await host.sandboxes.platform(namespace, request.sandbox_id)
    message = types_pb2.Platform(os=platform.os, architecture=platform.architecture)
    return pb.ControllerPlatformResponse(platform=message).SerializeToString()


async def _stop(host: Host, namespace: str, payload: bytes) -> bytes:
    request = decode(pb.ControllerStopRequest, payload)
    await host.sandboxes.stop(namespace, request.sandbox_id, request.timeout_secs)
    return pb.ControllerStopResponse().SerializeToString()


async def _wait(host: Host, namespace: str, payload: bytes) -> bytes:
    # Nothing that is not needed: it would be kept for the whole wait, half a kilobyte for a message.
    sandbox_id = decode(pb.ControllerWaitRequest, payload).sandbox_id
    del payload
    ended = await host.sandboxes.wait(namespace, sandbox_id)
    return pb.ControllerWaitResponse(exit_status=ended.status, exited_at=timestamp(ended.at)).SerializeToString()


async def _status(host: Host, namespace: str, payload: bytes) -> bytes:
    request = decode(pb.ControllerStatusRequest, payload)
    info = await host.sandboxes.status(namespace, request.sandbox_id, request.verbose)
    return pb.ControllerStatusResponse(
        sandbox_id=info.id,
        pid=info.pid,
        state=info.state,
        info=info.info,
        created_at=timestamp(info.created_at),
        exited_at=timestamp(info.exited_at),
        address=f"ttrpc+unix://{info.task_socket}",
        version=TASK_API_VERSION,
    ).SerializeToString()


async def _shutdown(host: Host, namespace: str, payload: bytes) -> bytes:
    request = decode(pb.ControllerShutdownRequest, payload)
    await host.sandboxes.shutdown(namespace, request.sandbox_id)
    return pb.ControllerShutdownResponse().SerializeToString()


async def _metrics(host: Host, namespace: str, payload: bytes) -> bytes:
    request = decode(pb.ControllerMetricsRequest, payload)
    used = await host.sandboxes.metrics(namespace, request.sandbox_id)
    message = metric(used, request.sandbox_id, host.cgroup_version)
    return pb.ControllerMetricsResponse(metrics=message).SerializeToString()


async def _update(host: Host, namespace: str, payload: bytes) -> bytes:
    request = decode(pb.ControllerUpdateRequest, payload)
    if request.sandbox.sandbox_id not in ("", request.sandbox_id):
        raise InvalidArgument(f"sandbox {request.sandbox_id}: the update is for {request.sandbox.sandbox_id}")
    wanted = set(request.fields)
    labels = dict(request.sandbox.labels) if not wanted or "labels" in wanted else None
    prepared = None
    if extension.FIELD in wanted:
        if extension.KEY not in request.sandbox.extensions:
            raise InvalidArgument(f"sandbox {request.sandbox_id}: {extension.FIELD} is to be updated, and is not there")
        prepared = extension.parse(request.sandbox.extensions[extension.KEY].value)
    await host.sandboxes.update(namespace, request.sandbox_id, labels, prepared)
    return pb.ControllerUpdateResponse().SerializeToString()


DIALECT = Dialect(
    "v2",
    {
        "Create": _create,
        "Start": _start,
        "Platform": _platform,
        "Stop": _stop,
        "Wait": _wait,
        "Status": _status,
        "Shutdown": _shutdown,
        "Metrics": _metrics,
        "Update": _update,
    },
)
