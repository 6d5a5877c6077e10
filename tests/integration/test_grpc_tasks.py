"""The Task API over gRPC, for clients that prefer ``grpc+unix://``."""

from __future__ import annotations

import stat

import grpc
import pytest

from sandbox_api.proto import task_pb2 as pb

from ..harness.container import Pod


@pytest.mark.parametrize("service", ["containerd.task.v2.Task", "containerd.task.v3.Task"])
def test_a_container_over_grpc(pod: Pod, service: str) -> None:
    path = pod.daemon.dir / "task-grpc.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    builder = pod.with_wasm("exit").args("11").write()
    with grpc.insecure_channel(f"unix:{path}") as channel:

        def call(method: str, request):  # type: ignore[no-untyped-def]
            return channel.unary_unary(f"/{service}/{method}")(request.SerializeToString(), timeout=30)

        call("Create", builder.request())
        call("Start", pb.StartRequest(id=builder.id))
        assert pb.WaitResponse.FromString(call("Wait", pb.WaitRequest(id=builder.id))).exit_status == 11
        call("Delete", pb.DeleteRequest(id=builder.id))
        with pytest.raises(grpc.RpcError) as raised:
            call("State", pb.StateRequest(id=builder.id))
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND
        with pytest.raises(grpc.RpcError) as raised:
            call("Dance", pb.StateRequest(id=builder.id))
        assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
