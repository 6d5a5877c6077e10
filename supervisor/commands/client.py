"""Talking to the daemon: questions over info.sock, changes through the Sandbox API and the Task API."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlencode

import click

from ..host.logs import one_line

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from sandbox_api.ttrpc.client import Client

Row = dict[str, Any]
M = TypeVar("M", bound="Message")

NAMESPACE = "default"
"""Namespace of what the command line makes itself."""
REFUSED, NOT_FOUND, FAILED = 126, 127, 125
"""Exit statuses of ``run`` and ``exec`` themselves, as docker's: no module that runs; not there; anything else."""

INVALID_ARGUMENT = 3
"""gRPC's status code."""
_TASKS = "containerd.task.v3.Task"
_ANSWER_SECONDS = 60


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = str(path)

    def connect(self) -> None:
        """Connect. Raises ``OSError``."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_ANSWER_SECONDS)
        self.sock.connect(self._path)


class Node:
    """The daemon that serves on --listen and works in --dir."""

    def __init__(self, listen: Path, folder: Path) -> None:
        self.listen = listen.absolute()
        self.folder = folder.absolute()

    @classmethod
    def of(cls, context: click.Context) -> Node:
        """The one that the command line names."""
        params = context.find_root().params
        return cls(params["listen"], params["folder"])

    @property
    def serves(self) -> bool:
        """Whether a daemon listens. Raises ``ClickException`` where we may not know."""
        return _listens(self.listen)

    # Questions

    def rows(self, path: str, **query: object) -> Iterator[Row]:
        """The objects of an answer, one after the other as they come. Raises ``ClickException``."""
        response = self._get(path, query)
        with response:
            try:
                while line := response.readline():
                    yield json.loads(line)
            except ConnectionError:
                raise self._away() from None

    def follow(self, path: str, **query: object) -> Iterator[Row]:
        """The same where the next one may be long in coming, for as long as the daemon lives."""
        yield from self.rows(path, follow="", **query)
        raise self._away()

    def row(self, path: str) -> Row:
        """An answer that is one object."""
        return self._one(self.rows(path))

    def find(self, name: str) -> Row:
        """The one container of this name, [NAMESPACE/]ID or the beginning of an id. Raises ``ClickException``."""
        found = list(self.rows("containers", name=name))
        if len(found) > 1:
            some = ", ".join(f"{each['namespace']}/{each['id']}" for each in found[:4])
            raise click.ClickException(f"{name!r} may be {some}{', ...' if found[4:] else ''}: write more of it")
        return self._one(iter(found))

    def container(self, row: Row) -> Row:
        """Everything about a container of a list."""
        return self.row(f"containers/{quote(row['namespace'])}/{quote(row['id'])}")

    def usage(self, row: Row) -> Row:
        """Measure a container of a list."""
        return self._one(self.rows("stats", name=f"{row['namespace']}/{row['id']}"))

    def _one(self, rows: Iterator[Row]) -> Row:
        for row in rows:
            return row
        raise self._away()  # it died before it answered

    def _get(self, path: str, query: dict[str, object]) -> http.client.HTTPResponse:
        where = self.folder / "info.sock"
        connection = UnixConnection(where)
        try:
            connection.request("GET", f"/{path}?{urlencode(query)}", headers={"Host": "localhost"})
            if "follow" in query:
                connection.sock.settimeout(None)
            response = connection.getresponse()
        except PermissionError:
            raise _not_allowed(where) from None
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, FileNotFoundError | ConnectionRefusedError):
                raise _nobody(where) from None
            raise Away(f"{where}: {error}") from None
        if response.status != 200:
            raise click.ClickException(response.read(4096).decode(errors="replace").strip())
        return response

    def _away(self) -> Away:
        return Away(f"the daemon in {self.folder} has gone: it restarts, or its log says why it ended")

    # Changes

    def sandbox(self, method: str, request: Message, answer: type[M], namespace: str = NAMESPACE) -> M:
        """A call of the Sandbox API, and its answer. Raises ``ClickException``."""
        import grpc  # takes longer to load than the other commands take to run

        from sandbox_api.grpc_server import NAMESPACE_KEY, SANDBOX_SERVICE

        with grpc.insecure_channel(f"unix:{self.listen}") as channel:
            call = channel.unary_unary(
                f"/{SANDBOX_SERVICE}/{method}", lambda message: message.SerializeToString(), answer.FromString
            )
            try:
                done = call(request, metadata=((NAMESPACE_KEY, namespace),), timeout=_ANSWER_SECONDS)
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.UNAVAILABLE:
                    if not self.serves:
                        raise _nobody(self.listen) from None
                    if not _listens(self.folder / "info.sock"):  # the sockets outlive it, and callers wait in them
                        raise self._away() from None
                raise CallFailed(error.details(), error.code().value[0]) from None
            assert isinstance(done, answer)
            return done

    async def tasks(self, namespace: str = NAMESPACE) -> Tasks:
        """A connection to the Task API. Raises ``ClickException``."""
        from sandbox_api.ttrpc.client import Client

        where = self.folder / "task.sock"
        try:
            return Tasks(await Client.connect(str(where)), namespace)
        except PermissionError:
            raise _not_allowed(where) from None
        except OSError:
            raise _nobody(where) from None


class Away(click.ClickException):
    """No daemon answers: none was started, or it has gone and may come back."""


class CallFailed(click.ClickException):
    """A call that the daemon refused; ``code`` is gRPC's number."""

    def __init__(self, message: str | None, code: int) -> None:
        # its names are a client's, and may have escape sequences in them
        super().__init__("\n".join(map(one_line, (message or f"the call failed with code {code}").split("\n"))))
        self.code = code


class Tasks:
    """The Task API in a namespace."""

    def __init__(self, client: Client, namespace: str) -> None:
        self._client = client
        self._namespace = namespace

    async def call(self, method: str, request: Message, answer: type[M]) -> M:
        """A call and its answer. Raises ``CallFailed``."""
        from sandbox_api import status
        from sandbox_api.errors import SandboxerError

        try:
            payload = await self._client.call(_TASKS, method, request.SerializeToString(), self._namespace)
        except SandboxerError as error:
            raise CallFailed(str(error), status.of(error, method)[0]) from None
        return answer.FromString(payload)

    async def tell(self, method: str, request: Message) -> None:
        """A call whose answer says nothing. Raises ``CallFailed``."""
        from google.protobuf.empty_pb2 import Empty

        await self.call(method, request, Empty)

    def close(self) -> None:
        """Hang up."""
        self._client.close()


def with_status(error: click.ClickException, status: int) -> click.ClickException:
    """The error, which ends the command with this exit status."""
    error.exit_code = status  # type: ignore[misc]  # click's own way, but for its annotation
    return error


def _listens(where: Path) -> bool:
    """Whether a socket accepts connections. Raises ``ClickException`` where we may not know."""
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(where))
    except PermissionError:
        raise _not_allowed(where) from None
    except OSError:
        return False
    return True


def _nobody(where: Path) -> Away:
    return Away(f"nobody serves on {where}: start the daemon (wasm-sandboxer), or name its --listen and --dir")


def _not_allowed(where: Path) -> click.ClickException:
    return click.ClickException(f"{where}: permission denied: run this as root, or as a member of its --socket-group")
