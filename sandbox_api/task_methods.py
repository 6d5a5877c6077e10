"""The Task API: its messages on one side, ``interface.TaskService`` on the other."""

from __future__ import annotations

from google.protobuf.empty_pb2 import Empty

from .calls import Kind, Method, Methods
from .convert import decode, mounts, timestamp, usage
from .errors import Unimplemented
from .interface import NewExec, NewTask, Stdio, TaskApi
from .proto import task_pb2 as pb

V2, V3 = SERVICES = ("containerd.task.v2.Task", "containerd.task.v3.Task")
"""The same methods and messages under two names."""

_EMPTY = Empty().SerializeToString()


class TaskMethods:
    """Each method of the Task API from encoded request to encoded response."""

    def __init__(self, tasks: TaskApi, cgroup_version: int) -> None:
        self._tasks = tasks
        self._cgroup_version = cgroup_version

    def table(self) -> Methods:
        """Methods by service and name."""
        methods = (
            Method("Create", self.create, Kind.CHANGE),
            Method("Wait", self.wait, Kind.WAIT),
            Method("State", self.state, Kind.READ),
            Method("Kill", self.kill, Kind.CHANGE),
            Method("Delete", self.delete, Kind.CHANGE),
            Method("Pids", self.pids, Kind.READ),
            Method("Connect", self.connect, Kind.READ),
            Method("Stats", self.stats, Kind.READ),
            Method("CloseIO", self.close_io, Kind.CHANGE),
            Method("Exec", self.exec, Kind.CHANGE),
            Method("ResizePty", self.resize_pty, Kind.CHANGE),
            Method("Pause", self.pause, Kind.CHANGE),
            Method("Resume", self.resume, Kind.CHANGE),
            Method("Update", self.update, Kind.CHANGE),
            Method("Shutdown", self.shutdown, Kind.CHANGE),
            Method("Checkpoint", self.checkpoint, Kind.CHANGE),
        )
        table = {(service, method.name): method for service in SERVICES for method in methods}
        table[V2, "Start"] = Method("Start", self.start, Kind.CHANGE)
        table[V2, "Stats"] = Method("Stats", self.stats, Kind.READ, nameless=self.stats_v1)
        table[V3, "Start"] = Method("Start", self.start_v3, Kind.CHANGE)
        return table

    async def create(self, namespace: str, payload: bytes) -> bytes:
        """Create."""
        request = decode(pb.CreateTaskRequest, payload)
        if request.checkpoint:
            raise Unimplemented(f"container {request.id}: restoring from a checkpoint is not supported")
        stdio = Stdio(request.stdin, request.stdout, request.stderr, request.terminal)
        pid = await self._tasks.create(namespace, NewTask(request.id, request.bundle, mounts(request.rootfs), stdio))
        return pb.CreateTaskResponse(pid=pid).SerializeToString()

    async def start(self, namespace: str, payload: bytes) -> bytes:
        """Start, version 2: standard input ends with its writers, as iSulad's clients expect."""
        return await self._start(namespace, payload, hold_stdin=False)

    async def start_v3(self, namespace: str, payload: bytes) -> bytes:
        """Start, version 3: standard input stays open until CloseIO, as runc's shim keeps it.

        containerd's restart closes its end of the FIFO and opens it again.
        """
        return await self._start(namespace, payload, hold_stdin=True)

    async def _start(self, namespace: str, payload: bytes, *, hold_stdin: bool) -> bytes:
        request = decode(pb.StartRequest, payload)
        pid = await self._tasks.start(namespace, request.id, request.exec_id, hold_stdin)
        return pb.StartResponse(pid=pid).SerializeToString()

    async def wait(self, namespace: str, payload: bytes) -> bytes:
        """Wait."""
        request = decode(pb.WaitRequest, payload)
        end = self._tasks.wait(namespace, request.id, request.exec_id)
        del request  # kept for the whole wait it is half a kilobyte
        ended = await end
        return pb.WaitResponse(exit_status=ended.status, exited_at=timestamp(ended.at)).SerializeToString()

    async def state(self, namespace: str, payload: bytes) -> bytes:
        """State."""
        request = decode(pb.StateRequest, payload)
        info = await self._tasks.state(namespace, request.id, request.exec_id)
        return pb.StateResponse(
            id=info.id,
            exec_id=info.exec_id,
            bundle=info.bundle,
            pid=info.pid,
            status=pb.Status.Name(info.status),
            stdin=info.stdio.stdin,
            stdout=info.stdio.stdout,
            stderr=info.stdio.stderr,
            terminal=info.stdio.terminal,
            exit_status=info.exit.status if info.exit else 0,
            exited_at=timestamp(info.exit.at) if info.exit else None,
        ).SerializeToString()

    async def kill(self, namespace: str, payload: bytes) -> bytes:
        """Kill."""
        request = decode(pb.KillRequest, payload)
        await self._tasks.kill(namespace, request.id, request.exec_id, request.signal, request.all)
        return _EMPTY

    async def delete(self, namespace: str, payload: bytes) -> bytes:
        """Delete."""
        request = decode(pb.DeleteRequest, payload)
        info = await self._tasks.delete(namespace, request.id, request.exec_id)
        return pb.DeleteResponse(
            pid=info.pid,
            exit_status=info.exit.status if info.exit else 0,
            exited_at=timestamp(info.exit.at) if info.exit else None,
        ).SerializeToString()

    async def pids(self, namespace: str, payload: bytes) -> bytes:
        """Pids."""
        request = decode(pb.PidsRequest, payload)
        pids = await self._tasks.pids(namespace, request.id)
        return pb.PidsResponse(processes=[pb.ProcessInfo(pid=pid) for pid in pids]).SerializeToString()

    async def connect(self, namespace: str, payload: bytes) -> bytes:
        """Connect."""
        request = decode(pb.ConnectRequest, payload)
        answer = await self._tasks.connect(namespace, request.id)
        return pb.ConnectResponse(
            shim_pid=answer.sandboxer_pid, task_pid=answer.task_pid, version=answer.version
        ).SerializeToString()

    async def stats(self, namespace: str, payload: bytes) -> bytes:
        """Stats."""
        request = decode(pb.StatsRequest, payload)
        used = await self._tasks.stats(namespace, request.id)
        return pb.StatsResponse(stats=usage(used, self._cgroup_version)).SerializeToString()

    async def stats_v1(self, namespace: str, payload: bytes) -> bytes:
        """Stats for iSulad's shim library, which reads every answer as control groups version 1 (shim_rt_ops.c)."""
        request = decode(pb.StatsRequest, payload)
        used = await self._tasks.stats(namespace, request.id)
        return pb.StatsResponse(stats=usage(used, 1)).SerializeToString()

    async def close_io(self, namespace: str, payload: bytes) -> bytes:
        """CloseIO."""
        request = decode(pb.CloseIORequest, payload)
        if request.stdin:
            await self._tasks.close_io(namespace, request.id, request.exec_id)
        return _EMPTY

    async def exec(self, namespace: str, payload: bytes) -> bytes:
        """Exec."""
        request = decode(pb.ExecProcessRequest, payload)
        stdio = Stdio(request.stdin, request.stdout, request.stderr, request.terminal)
        await self._tasks.exec(namespace, NewExec(request.id, request.exec_id, request.spec.value, stdio))
        return _EMPTY

    async def resize_pty(self, namespace: str, payload: bytes) -> bytes:
        """ResizePty."""
        request = decode(pb.ResizePtyRequest, payload)
        await self._tasks.resize_pty(namespace, request.id, request.exec_id, request.width, request.height)
        return _EMPTY

    async def pause(self, namespace: str, payload: bytes) -> bytes:
        """Pause."""
        await self._tasks.pause(namespace, decode(pb.PauseRequest, payload).id)
        return _EMPTY

    async def resume(self, namespace: str, payload: bytes) -> bytes:
        """Resume."""
        await self._tasks.resume(namespace, decode(pb.ResumeRequest, payload).id)
        return _EMPTY

    async def update(self, namespace: str, payload: bytes) -> bytes:
        """Update."""
        request = decode(pb.UpdateTaskRequest, payload)
        await self._tasks.update(namespace, request.id, request.resources.value)
        return _EMPTY

    async def shutdown(self, namespace: str, payload: bytes) -> bytes:
        """Shutdown: a client's goodbye to a shim. Here it ends nothing: the socket serves every sandbox."""
        decode(pb.ShutdownRequest, payload)
        return _EMPTY

    async def checkpoint(self, namespace: str, payload: bytes) -> bytes:
        """Checkpoint."""
        raise Unimplemented("Checkpoint: WASM instances have no checkpoints")
