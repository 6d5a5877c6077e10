"""Dialect 2023: iSulad 2.1.3 to 2.1.5 (``proto/controller_2023.proto``)."""

from __future__ import annotations

from ..convert import decode, mounts, pod_config, timestamp
from ..interface import NewContainer, NewExec, NewSandbox, Preparation, Stdio
from ..proto import controller_2023_pb2 as pb
from ..proto import types_pb2
from .dialect import Dialect, Host


async def _create(host: Host, namespace: str, payload: bytes) -> bytes:
    request = decode(pb.ControllerCreateRequest, payload)
    options = request.options
    new = NewSandbox(request.sandbox_id, request.netns_path, options.value, pod_config(options))
    await host.sandboxes.create(namespace, new)
    return pb.ControllerCreateResponse(sandbox_id=request.sandbox_id).SerializeToString()


async def _start(host: Host, namespace: str, payload: bytes) -> bytes:
    request = decode(pb.ControllerStartRequest, payload)
    info = await host.sandboxes.start(namespace, request.sandbox_id)
    return pb.ControllerStartResponse(
        sandbox_id=info.id,
        pid=info.pid,
        created_at=timestamp(info.created_at),
        labels=info.labels,
        task_address=f"unix://{info.task_socket}",
    ).SerializeToString()


async def _platform(host: Host, namespace: str, payload: bytes) -> bytes:
    request = decode(pb.ControllerPlatformRequest, payload)
    platform = await host.sandboxes.platform(namespace, request.sandbox_id)
    message = types_pb2.Platform(os=platform.os, architecture=platform.architecture)
    return pb.ControllerPlatformResponse(platform=message).SerializeToString()


async def _prepare(host: Host, namespace: str, payload: bytes) -> bytes:
    request = decode(pb.PrepareRequest, payload)
    stdio = Stdio(request.stdin, request.stdout, request.stderr, request.terminal)
    new: Preparation
    if request.exec_id:
        new = NewExec(request.container_id, request.exec_id, request.spec.value, stdio)
    else:
        new = NewContainer(request.container_id, request.spec.value, stdio, mounts(request.rootfs))
    bundle = await host.sandboxes.prepare(namespace, request.sandbox_id, new)
    return pb.PrepareResponse(bundle=bundle).SerializeToString()


async def _purge(host: Host, namespace: str, payload: bytes) -> bytes:
    request = decode(pb.PurgeRequest, payload)
    await host.sandboxes.purge(namespace, request.sandbox_id, request.container_id, request.exec_id)
    return pb.PurgeResponse().SerializeToString()


async def _update_resources(host: Host, namespace: str, payload: bytes) -> bytes:
    request = decode(pb.UpdateResourcesRequest, payload)
    await host.sandboxes.update_resources(namespace, request.sandbox_id, request.container_id, request.resources.value)
    return pb.UpdateResourcesResponse().SerializeToString()


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
        task_address=f"unix://{info.task_socket}",
        info=info.info,
        created_at=timestamp(info.created_at),
        exited_at=timestamp(info.exited_at),
    ).SerializeToString()


async def _shutdown(host: Host, namespace: str, payload: bytes) -> bytes:
    request = decode(pb.ControllerShutdownRequest, payload)
    await host.sandboxes.shutdown(namespace, request.sandbox_id)
    return pb.ControllerShutdownResponse().SerializeToString()


DIALECT = Dialect(
    "2023",
    {
        "Create": _create,
        "Start": _start,
        "Platform": _platform,
        "Prepare": _prepare,
        "Purge": _purge,
        "UpdateResources": _update_resources,
        "Stop": _stop,
        "Wait": _wait,
        "Status": _status,
        "Shutdown": _shutdown,
    },
)
