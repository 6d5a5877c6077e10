"""Has images of loaded modules made: one at a time, behind the scenes, never waited for."""

from __future__ import annotations

import posix
import sys

from . import linux, worker
from .images.cache import ImageCache
from .images.making import MAKE_SECONDS, Making, Template
from .images.snapshot import TooLarge, Unfit
from .start_request import FOLDER, MODULE, NATIVE, REPORT, STDERR, STDIN, STDOUT, Descriptors, StartRequest
from .zygote import Zygote, ZygoteDied

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .confinement.confinement import Confinement
    from .engines.engine import Engine
    from .image_protocol import ImageRequest
    from .images.initialization import Initialization

NOBODY = 65534
"""User and group of a template."""
WAITING = 16
"""Images that may wait for the one under way; each has a descriptor."""
TEMPLATE_DATA = 1 << 30
"""Bytes that a template may have beyond what an image may, such as a guest's memory that it never writes to."""
TEMPLATE_SPACE = 64 << 30
"""Bytes of address space that a template may take, and with it of page tables."""
_RLIMIT_DATA, _RLIMIT_NOFILE, _RLIMIT_AS = 2, 7, 9
TEMPLATE_FILES = 256
"""Descriptors that a template may have."""


class _Wanted:
    """An image that is to be made."""

    __slots__ = ("before", "key", "product", "request", "tries")

    def __init__(self, key: object, request: ImageRequest, product: int, before: Initialization | None) -> None:
        self.key = key
        self.request = request
        self.before = before
        """What is called before it is taken."""
        self.product = product
        """A descriptor of our own."""
        self.tries = 0

    def close(self) -> None:
        """Close its descriptors."""
        posix.close(self.product)
        if self.before is not None:
            self.before.close()


class ImageMaker:
    """Makes images of what it is asked for, and puts them into the cache."""

    def __init__(
        self, cache: ImageCache, zygotes: dict[bytes, Zygote], engines: dict[bytes, Engine], mask: bytes
    ) -> None:
        """``zygotes`` and ``engines`` are by the engines' names."""
        self._cache = cache
        self._zygotes = zygotes
        self._engines = engines
        self._mask = mask
        self.confinement: Confinement | None = None
        """Confinement of templates, as of workers; without it none is forked."""
        self._waiting: dict[object, _Wanted] = {}
        self._wanted: _Wanted | None = None
        """The one under way."""
        self._making: Making | None = None
        self._serial = 0

    def key(self, request: ImageRequest, product: int, before: Initialization | None = None) -> object:
        """Name the image: the product's file, the root zygote whose addresses it has, and what else changes it."""
        status = posix.fstat(product)
        file = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        roots = self._zygotes[request.engine].roots
        seen = before.key() if before is not None else None
        return (file, request.engine, request.function, request.max_pages, seen, roots)

    def want(self, request: ImageRequest, product: int, before: Initialization | None = None) -> None:
        """Ask for an image, unless it is there, cannot be, or too many wait. The descriptors stay the caller's."""
        engine = self._engines.get(request.engine)
        if engine is None or not engine.images or not engine.ready:
            return
        key = self.key(request, product, before)
        if (self._wanted is not None and self._wanted.key == key) or not self._cache.wanted(key):
            return
        if key not in self._waiting and len(self._waiting) < WAITING:
            ours = -1
            try:
                ours = posix.dup(product)
                if before is not None:
                    before.keep()
            except OSError:  # no room for its descriptors: a later start asks again
                if ours >= 0:
                    posix.close(ours)
                return
            self._waiting[key] = _Wanted(key, request, ours, before)
        self._next()

    def fileno(self) -> int:
        """Readable when there is something to ``receive``; -1 where nothing is under way."""
        return self._making.fileno() if self._making is not None else -1

    @property
    def seconds_left(self) -> float | None:
        """How long what is under way may still take; None where nothing is."""
        return self._making.seconds_left if self._making is not None else None

    def receive(self) -> None:
        """Take what the maker says, and the image when that was all; then the next is begun."""
        if self._making is not None and self._making.receive():
            self._finish()

    def give_up_overdue(self) -> None:
        """End what takes too long."""
        if self._making is not None and self._making.seconds_left < 0:
            self._finish()

    def reaped(self, pid: int) -> None:
        """A child is reaped: its pid may be another process's from now on."""
        if self._making is not None:
            self._making.reaped(pid)

    def forget_waiting(self) -> None:
        """Forget what waits to be made: the zygote that it was asked for is gone, or images are off."""
        for wanted in self._waiting.values():
            wanted.close()
        self._waiting.clear()

    def _finish(self) -> None:
        making, wanted = self._making, self._wanted
        assert making is not None
        assert wanted is not None
        self._making = self._wanted = None
        again = False
        try:
            image = making.image(self._serial, wanted.request.digest)
            if self.key(wanted.request, wanted.product, wanted.before) == wanted.key and self._cache.wanted(wanted.key):
                self._cache.add(wanted.key, image)
            else:
                image.close()
        except TooLarge as error:
            again = not wanted.tries and self._cache.make_room(error.args[0])
            if not again:
                self._refuse(
                    wanted, f"it takes {error.args[0] >> 10} KiB, more than --image-memory has room for", False
                )
        except (OSError, Unfit) as error:
            self._refuse(wanted, str(error), True)
        finally:
            making.close()
        if again:
            wanted.tries += 1
            self._waiting[wanted.key] = wanted
        else:
            wanted.close()
        self._next()

    def _next(self) -> None:
        """Begin with what waits longest, if nothing is under way."""
        while self._making is None and self._waiting and self.confinement is not None:
            wanted = self._waiting.pop(next(iter(self._waiting)))
            self._serial += 1
            if not self._cache.room:
                self._cache.make_room(1 << 20)
            try:
                self._making = Making(self._fork(wanted, self.confinement), self._cache.room)
                self._wanted = wanted
            except (OSError, ZygoteDied) as error:
                self._refuse(wanted, str(error) or "the zygote died", False)
                wanted.close()

    def _refuse(self, wanted: _Wanted, reason: str, for_good: bool) -> None:
        print(f"forkserver: no image of a module: {reason}", file=sys.stderr)
        self._cache.refuse(wanted.key, self._serial, wanted.request.digest, reason, for_good)

    def _fork(self, wanted: _Wanted, confinement: Confinement) -> Template:
        """Fork a template. Raises ``OSError`` and ``ZygoteDied``."""
        before = wanted.before
        zygote, engine = self._zygotes[wanted.request.engine], self._engines[wanted.request.engine]
        empty = -1
        folders: list[int] = []
        if before is not None:
            folders = before.folders
            if not before.shown:
                if zygote.no_empty_root:
                    raise OSError(zygote.no_empty_root, "there is no empty folder for it")
                empty = posix.open(f"/proc/{zygote.pid}/root", linux.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
                folders = [empty] * len(before.preopens)
        limits = (
            (_RLIMIT_DATA, self._cache.most + TEMPLATE_DATA),
            (_RLIMIT_AS, TEMPLATE_SPACE),
            (_RLIMIT_NOFILE, TEMPLATE_FILES),
        )
        request = StartRequest(
            instance=0,
            descriptors=Descriptors(
                bytes((REPORT, MODULE, STDIN, STDOUT, STDERR, *[FOLDER] * len(folders))), worker.FIRST_FD
            ),
            preopens=before.preopens if before is not None else (),
            initialize=before.export if before is not None else b"",
            engine=wanted.request.engine,
            function=wanted.request.function,
            module_kind=NATIVE,
            uid=NOBODY,
            gid=NOBODY,
            max_pages=wanted.request.max_pages,
            rlimits=[(kind, most, most) for kind, most in limits],  # it is in no container's control group
            oom_score_adj=1000,
        )
        calls = zygote.calls()
        # A second more than the maker has: it is the maker who says that the time is over.
        values = worker.build_template(calls, request, engine, confinement, self._mask, MAKE_SECONDS + 1)
        null = report = theirs = -1
        try:
            null = posix.open("/dev/null", posix.O_RDWR | posix.O_CLOEXEC)
            report, theirs = posix.pipe2(posix.O_CLOEXEC)
            args, env = (before.args, before.env) if before is not None else ((), ())
            code = zygote.finish(calls).complete(args, env)
            pid = zygote.fork(code, [theirs, wanted.product, null, null, null, *folders])
        except BaseException:
            if report >= 0:
                posix.close(report)
            raise
        finally:
            for fd in (theirs, null, empty):
                if fd >= 0:
                    posix.close(fd)
        return Template(pid, report, values, zygote.pid, zygote.call_lists, wanted.product)
