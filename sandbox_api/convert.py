"""Between messages and plain values, where several services need the same."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TypeVar

from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp

from .errors import InvalidArgument
from .interface import Mount, PodConfig, Usage
from .proto import metrics_v1_pb2 as v1
from .proto import metrics_v2_pb2 as v2
from .proto import pod_config_pb2, types_pb2

M = TypeVar("M", bound=Message)

MAX_MOUNTS = 128
"""Of a root file system."""

_BILLION = 1_000_000_000
_NO_LIMIT = (1 << 64) - 1


def decode(kind: type[M], payload: bytes) -> M:
    """A message of this kind. Raises ``InvalidArgument``."""
    try:
        return kind.FromString(payload)
    except DecodeError as error:
        raise InvalidArgument(f"not a {kind.DESCRIPTOR.full_name}: {error}") from None


def timestamp(nanoseconds: int) -> Timestamp | None:
    """A time on the wire; none for "not yet"."""
    if not nanoseconds:
        return None
    return Timestamp(seconds=nanoseconds // _BILLION, nanos=nanoseconds % _BILLION)


def pod_config(options: Any) -> PodConfig | None:
    """CRI's configuration of a pod as plain values; None where the options are none. Raises ``InvalidArgument``."""
    if not options.type_url.endswith(".PodSandboxConfig"):
        return None
    config = decode(pod_config_pb2.PodSandboxConfig, options.value)
    namespaces = config.linux.security_context.namespace_options
    return PodConfig(
        hostname=config.hostname,
        servers=tuple(config.dns_config.servers),
        searches=tuple(config.dns_config.searches),
        options=tuple(config.dns_config.options),
        sysctls=dict(config.linux.sysctls),
        host_network=namespaces.network == pod_config_pb2.NODE,
        user_namespace=namespaces.HasField("userns_options") and namespaces.userns_options.mode == pod_config_pb2.POD,
    )


def mounts(messages: Sequence[types_pb2.Mount]) -> tuple[Mount, ...]:
    """Mounts as plain values. Raises ``InvalidArgument``."""
    check_number("rootfs", len(messages), MAX_MOUNTS)
    return tuple(mount(each.type, each.source, each.target, each.options) for each in messages)


def mount(kind: str, source: str, target: str, options: Iterable[str]) -> Mount:
    """A mount as a plain value. Raises ``InvalidArgument``."""
    made = Mount(kind, source, target, tuple(options))
    if any("\0" in text for text in (kind, source, target, *made.options)):
        raise InvalidArgument(f"rootfs: the mount of {source[:200]!r} holds a NUL")
    return made


def check_number(what: str, found: int, most: int) -> None:
    """Refuse more of something than there may be: it is read where every client waits. Raises ``InvalidArgument``."""
    if found > most:
        raise InvalidArgument(f"{what} has {found} entries; {most} is the most")


def usage(used: Usage, cgroup_version: int) -> Any:
    """Usage as the metrics message of the host's cgroup version (containerd/cgroups)."""
    message: Message = _metrics_v1(used) if cgroup_version == 1 else _metrics_v2(used)
    url = f"io.containerd.cgroups.v{cgroup_version}.Metrics"
    return Any(type_url=url, value=message.SerializeToString())


def metric(used: Usage, sandbox_id: str, cgroup_version: int) -> types_pb2.Metric:
    """A sandbox's usage."""
    return types_pb2.Metric(timestamp=_now(used), id=sandbox_id, data=usage(used, cgroup_version))


def _now(used: Usage) -> Timestamp | None:
    return timestamp(used.at or time.time_ns())


def _metrics_v1(used: Usage) -> v1.Metrics:
    return v1.Metrics(
        pids=v1.PidsStat(current=used.processes, limit=used.process_limit),
        cpu=v1.CPUStat(
            usage=v1.CPUUsage(total=used.cpu * 1000, user=used.cpu_user * 1000, kernel=used.cpu_system * 1000),
            throttling=v1.Throttle(
                periods=used.throttle_periods,
                throttled_periods=used.throttled_periods,
                throttled_time=used.throttled * 1000,
            ),
        ),
        memory=v1.MemoryStat(
            rss=used.anon,
            cache=used.file,
            inactive_file=used.inactive_file,
            total_rss=used.anon,
            total_cache=used.file,
            total_inactive_file=used.inactive_file,
            pg_fault=used.page_faults,
            pg_maj_fault=used.major_faults,
            total_pg_fault=used.page_faults,
            total_pg_maj_fault=used.major_faults,
            hierarchical_memory_limit=used.memory_limit or _NO_LIMIT,
            usage=v1.MemoryEntry(usage=used.memory, limit=used.memory_limit or _NO_LIMIT, max=used.memory_peak),
            swap=v1.MemoryEntry(
                usage=used.memory + used.swap,
                limit=used.swap_limit + used.memory_limit if used.swap_limit else _NO_LIMIT,
            ),
        ),
        memory_oom_control=v1.MemoryOomControl(oom_kill=used.oom_kills),
    )


def _metrics_v2(used: Usage) -> v2.Metrics:
    return v2.Metrics(
        pids=v2.PidsStat(current=used.processes, limit=used.process_limit),
        cpu=v2.CPUStat(
            usage_usec=used.cpu,
            user_usec=used.cpu_user,
            system_usec=used.cpu_system,
            nr_periods=used.throttle_periods,
            nr_throttled=used.throttled_periods,
            throttled_usec=used.throttled,
        ),
        memory=v2.MemoryStat(
            anon=used.anon,
            file=used.file,
            inactive_file=used.inactive_file,
            pgfault=used.page_faults,
            pgmajfault=used.major_faults,
            usage=used.memory,
            usage_limit=used.memory_limit or _NO_LIMIT,
            max_usage=used.memory_peak,
            swap_usage=used.swap,
            swap_limit=used.swap_limit or _NO_LIMIT,
        ),
        memory_events=v2.MemoryEvents(oom_kill=used.oom_kills),
    )
