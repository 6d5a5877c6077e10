"""A client of the Container Runtime Interface, as the kubelet is one. Ids are the runtime's; times seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from . import cri_pb2 as pb

Answer = TypeVar("Answer", bound=Message)
Result = TypeVar("Result")

SECONDS = 60.0
"""Seconds that a call may take; a StopContainer's grace comes on top."""

NODE = pb.NamespaceOption(network=pb.NODE)


def eventually(call: Callable[[], Result], seconds: float = 30) -> Result:
    """The call's result, tried again while the runtime says UNAVAILABLE, as the kubelet would."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return call()
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


class Cri:
    """The runtime and image services on one socket. Calls raise ``grpc.RpcError``."""

    def __init__(self, socket: Path) -> None:
        # A fresh pool each: a channel of the last containerd on this path would wait out its back-off.
        self._channel = grpc.insecure_channel(f"unix:{socket}", options=[("grpc.use_local_subchannel_pool", 1)])

    def close(self) -> None:
        self._channel.close()

    def _call(
        self, service: str, method: str, request: Message, answer: type[Answer], seconds: float = SECONDS
    ) -> Answer:
        invoke: Callable[..., Any] = self._channel.unary_unary(
            f"/runtime.v1.{service}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        result: Answer = invoke(request, timeout=seconds)
        return result

    def _runtime(self, method: str, request: Message, answer: type[Answer], seconds: float = SECONDS) -> Answer:
        return self._call("RuntimeService", method, request, answer, seconds)

    def _image(self, method: str, request: Message, answer: type[Answer]) -> Answer:
        return self._call("ImageService", method, request, answer, 300)

    def version(self) -> pb.VersionResponse:
        return self._runtime("Version", pb.VersionRequest(), pb.VersionResponse)

    # Pods

    def run_pod(self, config: pb.PodSandboxConfig, handler: str) -> str:
        request = pb.RunPodSandboxRequest(config=config, runtime_handler=handler)
        return self._runtime("RunPodSandbox", request, pb.RunPodSandboxResponse).pod_sandbox_id

    def stop_pod(self, pod: str) -> None:
        self._runtime("StopPodSandbox", pb.PodSandboxRequest(pod_sandbox_id=pod), pb.Empty)

    def remove_pod(self, pod: str) -> None:
        self._runtime("RemovePodSandbox", pb.PodSandboxRequest(pod_sandbox_id=pod), pb.Empty)

    def pod_status(self, pod: str) -> pb.PodSandboxStatus:
        return self.verbose_pod_status(pod, False).status

    def verbose_pod_status(self, pod: str, verbose: bool = True) -> pb.PodSandboxStatusResponse:
        request = pb.PodSandboxStatusRequest(pod_sandbox_id=pod, verbose=verbose)
        return self._runtime("PodSandboxStatus", request, pb.PodSandboxStatusResponse)

    def pods(self) -> Sequence[pb.PodSandbox]:
        return self._runtime("ListPodSandbox", pb.ListPodSandboxRequest(), pb.ListPodSandboxResponse).items

    def pod_stats(self, pod: str) -> pb.PodSandboxStats:
        request = pb.PodSandboxRequest(pod_sandbox_id=pod)
        return self._runtime("PodSandboxStats", request, pb.PodSandboxStatsResponse).stats

    # Containers

    def create(self, pod: str, container: pb.ContainerConfig, config: pb.PodSandboxConfig) -> str:
        request = pb.CreateContainerRequest(pod_sandbox_id=pod, config=container, sandbox_config=config)
        return self._runtime("CreateContainer", request, pb.CreateContainerResponse).container_id

    def start(self, container: str) -> None:
        self._runtime("StartContainer", pb.ContainerRequest(container_id=container), pb.Empty)

    def stop(self, container: str, grace: int = 0) -> None:
        request = pb.StopContainerRequest(container_id=container, timeout=grace)
        self._runtime("StopContainer", request, pb.Empty, SECONDS + grace)

    def remove(self, container: str) -> None:
        self._runtime("RemoveContainer", pb.ContainerRequest(container_id=container), pb.Empty)

    def containers(self) -> Sequence[pb.Container]:
        return self._runtime("ListContainers", pb.ListContainersRequest(), pb.ListContainersResponse).containers

    def status(self, container: str) -> pb.ContainerStatus:
        return self.verbose_status(container, False).status

    def verbose_status(self, container: str, verbose: bool = True) -> pb.ContainerStatusResponse:
        request = pb.ContainerStatusRequest(container_id=container, verbose=verbose)
        return self._runtime("ContainerStatus", request, pb.ContainerStatusResponse)

    def wait(self, container: str, seconds: float = SECONDS) -> pb.ContainerStatus:
        """Its status once it has ended. CRI has no such call: the kubelet asks again and again, too."""
        deadline = time.monotonic() + seconds
        while True:
            status = self.status(container)
            if status.state == pb.CONTAINER_EXITED:
                return status
            if time.monotonic() > deadline:
                raise TimeoutError(f"{container} is {pb.ContainerState.Name(status.state)} after {seconds} s")
            time.sleep(0.002)

    def update(self, container: str, resources: pb.LinuxContainerResources) -> None:
        request = pb.UpdateContainerResourcesRequest(container_id=container, linux=resources)
        self._runtime("UpdateContainerResources", request, pb.Empty)

    def reopen_log(self, container: str) -> None:
        self._runtime("ReopenContainerLog", pb.ContainerRequest(container_id=container), pb.Empty)

    def stats(self, container: str) -> pb.ContainerStats:
        request = pb.ContainerRequest(container_id=container)
        return self._runtime("ContainerStats", request, pb.ContainerStatsResponse).stats

    def all_stats(self, pod: str = "") -> Sequence[pb.ContainerStats]:
        request = pb.ListContainerStatsRequest(filter=pb.ContainerStatsFilter(pod_sandbox_id=pod))
        return self._runtime("ListContainerStats", request, pb.ListContainerStatsResponse).stats

    def exec_sync(self, container: str, *command: str, seconds: int = 30) -> pb.ExecSyncResponse:
        request = pb.ExecSyncRequest(container_id=container, cmd=command, timeout=seconds)
        return self._runtime("ExecSync", request, pb.ExecSyncResponse)

    def exec_url(self, container: str, *command: str, stdin: bool = False, tty: bool = False) -> str:
        """Where ``streaming.Session`` finds the command's streams. With a terminal there is no stderr."""
        request = pb.ExecRequest(container_id=container, cmd=command, stdin=stdin, stdout=True, stderr=not tty, tty=tty)
        return self._runtime("Exec", request, pb.StreamingResponse).url

    def attach_url(self, container: str, stdin: bool = False, tty: bool = False) -> str:
        """Where ``streaming.Session`` finds the container's streams."""
        request = pb.AttachRequest(container_id=container, stdin=stdin, stdout=True, stderr=not tty, tty=tty)
        return self._runtime("Attach", request, pb.StreamingResponse).url

    # Images

    def image(self, name: str) -> pb.Image | None:
        request = pb.ImageStatusRequest(image=pb.ImageSpec(image=name))
        answer = self._image("ImageStatus", request, pb.ImageStatusResponse)
        return answer.image if answer.HasField("image") else None

    def image_info(self, name: str) -> dict[str, str]:
        """Verbose answers of ImageStatus: JSON by name."""
        request = pb.ImageStatusRequest(image=pb.ImageSpec(image=name), verbose=True)
        return dict(self._image("ImageStatus", request, pb.ImageStatusResponse).info)

    def images(self) -> Sequence[pb.Image]:
        return self._image("ListImages", pb.ListImagesRequest(), pb.ListImagesResponse).images

    def pull_image(self, name: str) -> str:
        request = pb.ImageRequest(image=pb.ImageSpec(image=name))
        return self._image("PullImage", request, pb.PullImageResponse).image_ref

    def remove_image(self, name: str) -> None:
        self._image("RemoveImage", pb.ImageRequest(image=pb.ImageSpec(image=name)), pb.Empty)
