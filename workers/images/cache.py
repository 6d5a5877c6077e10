"""The images that a forkserver has, within a bound of memory: those used last stay.

The memory of an image is given back when nobody has it mapped any more. So one that instances have is kept as it is,
and counts until the last of them has ended.
"""

from __future__ import annotations

from ..image_protocol import DROPPED, MADE, UNFIT, ImageReport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .image import Image

STARTS = 2
"""Starts of a product after which it is worth an image."""
REMEMBERED = 1024
"""Products whose starts are counted, or that are known to be unfit."""


class ImageCache:
    """Images by the product and all else that changes the loaded state."""

    def __init__(self, tell: Callable[[ImageReport], None]) -> None:
        self._tell = tell
        self.most = 0
        """Bytes that all images may take together."""
        self._images: dict[object, Image] = {}  # the one used last at the end
        self._retired: list[Image] = []
        """Those that no start finds any more, but that instances have."""
        self._users: dict[int, Image] = {}  # by pid
        self._starts: dict[object, int] = {}
        self._unfit: dict[object, ImageReport] = {}

    def limit(self, most: int) -> None:
        """Set how many bytes all images may take together; 0 makes none, and uses none."""
        self.most = most
        if not most:
            self.clear("images are off")
        self.make_room(0)

    @property
    def room(self) -> int:
        """How many bytes one more image may have."""
        return max(0, self.most - self._taken())

    def find(self, key: object) -> Image | None:
        """The image of a product; where there is none, this start of it is counted."""
        image = self._images.pop(key, None)
        if image is not None:
            self._images[key] = image
            return image
        self._starts[key] = self._starts.pop(key, 0) + 1
        _forget_oldest(self._starts)
        return None

    def often(self, key: object) -> bool:
        """Whether a product was started as often as is worth an image."""
        return self._starts.get(key, 0) >= STARTS

    def wanted(self, key: object) -> bool:
        """Whether there may be an image of a product, and is none."""
        return self.most > 0 and key not in self._images and key not in self._unfit

    def add(self, key: object, image: Image) -> None:
        """Take over an image that was made. The caller has seen to it that there was ``room``."""
        self._starts.pop(key, None)
        self._images[key] = image
        self._tell(_made(image))

    def refuse(self, key: object, serial: int, digest: bytes, reason: str, for_good: bool) -> None:
        """Note why there is no image of a product; where not for good, it may be tried after some more starts."""
        self._starts.pop(key, None)
        report = ImageReport(UNFIT, serial, digest, reason=reason)
        if for_good:
            self._unfit[key] = report
            _forget_oldest(self._unfit)
        self._tell(report)

    def hold(self, image: Image, pid: int) -> None:
        """A worker has an image mapped, or is about to."""
        image.users += 1
        self._users[pid] = image

    def reaped(self, pid: int) -> None:
        """A worker has ended, and given back what it had mapped."""
        image = self._users.pop(pid, None)
        if image is not None:
            image.users -= 1
            if not image.users and image in self._retired:
                self._retired.remove(image)

    def make_room(self, needed: int) -> bool:
        """Drop the images used longest ago that nobody has mapped, until there is so much room; whether there is."""
        for key, image in list(self._images.items()):
            if self._fits(needed):
                break
            if not image.users:
                self._drop(key, "others were used later")
        return self._fits(needed)

    def clear(self, reason: str) -> None:
        """Drop every image, and all that is known of products."""
        for key in list(self._images):
            self._drop(key, reason)
        self._starts.clear()
        self._unfit.clear()

    def reports(self) -> list[ImageReport]:
        """List the images there are, and why others are not."""
        return [*map(_made, self._images.values()), *list(self._unfit.values())[-64:]]

    def _fits(self, needed: int) -> bool:
        return self._taken() + needed <= self.most

    def _taken(self) -> int:
        return sum(each.bytes for each in (*self._images.values(), *self._retired))

    def _drop(self, key: object, reason: str) -> None:
        image = self._images.pop(key)
        image.close()
        if image.users:
            self._retired.append(image)
        self._tell(ImageReport(DROPPED, image.serial, image.digest, image.bytes, reason=reason))


def _made(image: Image) -> ImageReport:
    return ImageReport(MADE, image.serial, image.digest, image.bytes, len(image.segments), image.microseconds)


def _forget_oldest(among: dict[object, int] | dict[object, ImageReport]) -> None:
    if len(among) > REMEMBERED:
        del among[next(iter(among))]
