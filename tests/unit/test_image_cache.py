"""The cache of images: bounded by memory in use, the images used last stay."""

from __future__ import annotations

import os

import pytest

from workers import linux
from workers.image_protocol import DROPPED, MADE, UNFIT, ImageReport, ImageRequest
from workers.images.cache import STARTS, ImageCache
from workers.images.image import MEMORY, Image, Segment
from workers.protocol import ProtocolError

KIB = 1 << 10


class Told(list[ImageReport]):
    def states(self) -> list[bytes]:
        return [each.state for each in self]


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def cache(told: Told) -> ImageCache:
    cache = ImageCache(told.append)
    cache.limit(400 * KIB)
    return cache


def image(serial: int, kib: int) -> Image:
    fd = os.memfd_create("image")
    return Image(serial, b"d%d" % serial, fd, [Segment(0, kib * KIB, 3, MEMORY)], 0, [])


def fill(cache: ImageCache, count: int = 4) -> list[Image]:
    made = [image(number, 100) for number in range(count)]
    for number, each in enumerate(made):
        cache.add(number, each)
    return made


def test_sizes_are_of_whole_pages() -> None:
    assert image(1, 100).bytes == 100 * KIB // linux.PAGE_BYTES * linux.PAGE_BYTES


def test_an_image_is_wanted_after_two_starts(cache: ImageCache) -> None:
    for number in range(STARTS):
        assert not cache.often("key"), number
        assert cache.find("key") is None
    assert cache.often("key")
    assert cache.wanted("key")
    cache.add("key", image(1, 4))
    assert not cache.wanted("key")
    assert cache.find("key") is not None


def test_room_is_made_by_dropping_what_was_used_longest_ago(cache: ImageCache, told: Told) -> None:
    fill(cache)
    cache.find(0)
    assert cache.room == 0
    assert cache.make_room(150 * KIB)
    assert [cache.find(number) is not None for number in range(4)] == [True, False, False, True]
    assert told.states() == [MADE] * 4 + [DROPPED] * 2
    assert cache.room == 200 * KIB


def test_images_in_use_are_kept_and_counted(cache: ImageCache) -> None:
    for number, each in enumerate(fill(cache)):
        cache.hold(each, 1000 + number)
    assert not cache.make_room(KIB)
    assert all(cache.find(number) is not None for number in range(4))
    cache.reaped(1002)
    assert cache.make_room(KIB)
    assert cache.find(2) is None


def test_dropped_images_count_until_their_last_user_has_ended(cache: ImageCache) -> None:
    first, second, *_ = fill(cache)
    cache.hold(first, 1)
    cache.hold(first, 2)
    cache.hold(second, 3)
    cache.clear("the root zygote was replaced")
    assert cache.room == 200 * KIB
    cache.reaped(1)
    cache.reaped(3)
    assert cache.room == 300 * KIB
    cache.reaped(2)
    assert cache.room == 400 * KIB


def test_descriptors_are_closed_when_dropped(cache: ImageCache) -> None:
    made = fill(cache)
    fds = [each.fileno() for each in made]
    cache.hold(made[0], 1)
    cache.clear("end")
    for fd in fds:
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(fd)


def test_a_lower_limit_drops_images_and_none_drops_all(cache: ImageCache) -> None:
    made = fill(cache)
    cache.limit(250 * KIB)
    assert [cache.find(number) is not None for number in range(4)] == [False, False, True, True]
    cache.hold(made[3], 1)
    cache.limit(0)
    assert cache.find(3) is None
    assert not cache.wanted("other")


def test_an_unfit_module_is_told_once_and_not_tried_again(cache: ImageCache, told: Told) -> None:
    cache.refuse("key", 1, b"digest", "it shares memory", for_good=True)
    cache.refuse("other", 2, b"digest2", "no room", for_good=False)
    assert not cache.wanted("key")
    assert cache.wanted("other")
    assert told.states() == [UNFIT, UNFIT]
    assert [(each.digest, each.reason) for each in cache.reports()] == [(b"digest", "it shares memory")]


def test_reports_and_requests_come_back_as_they_were_sent() -> None:
    sent = ImageReport(MADE, 7, b"abc", 8192, 3, 21_000, "why")
    came = ImageReport.decode(sent.encode())
    assert [getattr(came, name) for name in ImageReport.__slots__] == [getattr(sent, name) for name in sent.__slots__]
    request = ImageRequest.decode(ImageRequest(b"abc", b"wasmedge", b"_start", 16).encode())
    assert (request.digest, request.engine, request.function, request.max_pages) == (b"abc", b"wasmedge", b"_start", 16)
    for body in (b"", sent.encode()[:-1], ImageRequest(b"", b"", b"", 70_000).encode()):
        with pytest.raises(ProtocolError):
            ImageRequest.decode(body)
