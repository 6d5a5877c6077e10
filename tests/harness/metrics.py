"""Reading what Stats and Metrics answer."""

from __future__ import annotations

from google.protobuf.any_pb2 import Any

from sandbox_api.proto import metrics_v1_pb2, metrics_v2_pb2


def usage_of(metrics: Any) -> int:
    """Bytes of memory in use."""
    if metrics.type_url == "io.containerd.cgroups.v1.Metrics":
        return metrics_v1_pb2.Metrics.FromString(metrics.value).memory.usage.usage
    assert metrics.type_url == "io.containerd.cgroups.v2.Metrics"
    return metrics_v2_pb2.Metrics.FromString(metrics.value).memory.usage
