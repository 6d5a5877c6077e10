"""The compiler process changes a module before the compiler sees it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.compile_protocol import Request
from workers.engines.sections import has_start, without_custom
from workers.engines.wasmedge.compiler import NATIVE_SECTION
from workers.protocol import ProtocolError, pack, pack_numbers

from ..harness.modules import MAGIC, custom, exits, section

MODULE = exits(3)


def without_native(code: bytes) -> bytes:
    return without_custom(code, NATIVE_SECTION)


def test_native_code_is_taken_out_wherever_it_is() -> None:
    native = custom(b"wasmedge", b"\x7fELF" + bytes(1000))
    name = custom(b"name", b"wasmedge")
    assert without_native(MODULE + native) == MODULE
    assert without_native(MAGIC + native + MODULE[8:] + native + native) == MODULE
    assert without_native(MODULE + name + native) == MODULE + name
    assert without_native(MAGIC + native) == MAGIC


@pytest.mark.parametrize("kept", [custom(b"wasmedge2", b"x"), custom(b"Wasmedge", b"x"), section(1, b"\x08wasmedge")])
def test_nothing_else_is(kept: bytes) -> None:
    assert without_native(MAGIC + kept) == MAGIC + kept


@given(st.binary(max_size=200))
def test_malformed_sections_are_left_to_the_compiler(tail: bytes) -> None:
    result = without_native(MAGIC + tail)
    assert result.startswith(MAGIC)
    assert len(result) <= len(MAGIC + tail)


@pytest.mark.parametrize(
    "fields", [[], [b"wasmedge", b"0.14.1", b"", pack_numbers(1, 2, 3), b"", b""], [b"", b"", b"", b"1", b"", b""]]
)
def test_a_damaged_request_is_refused(fields: list[bytes]) -> None:
    with pytest.raises(ProtocolError):
        Request.decode(pack(fields))


def test_a_request_arrives_as_it_was_sent() -> None:
    request = Request(
        engine=b"wasmedge",
        version=b"0.14.1",
        library=b"/l",
        level=2,
        milliseconds=1500,
        memory=1 << 31,
        idle=True,
        workshop=b"/w",
        filter=b"12345678",
    )
    copy = Request.decode(request.encode())
    assert {name: getattr(copy, name) for name in Request.__slots__} == {
        name: getattr(request, name) for name in Request.__slots__
    }


def test_a_start_section_is_a_trait_of_its_module() -> None:
    empty = b"\0asm\1\0\0\0"
    types, functions, start, code = b"\1\4\1\x60\0\0", b"\3\2\1\0", b"\x08\1\0", b"\x0a\4\1\2\0\x0b"
    assert has_start(empty + types + functions + start + code)
    assert not has_start(empty + types + functions + code)
    assert not has_start(empty + b"\x00\x05\x04start" + b"\xff")  # malformed: the compiler has refused it before


def test_a_name_that_ends_beyond_its_section_is_no_name() -> None:
    """The bytes after an empty section were taken for its name, and it was left out of the module."""
    header = b"\0asm\1\0\0\0"
    empty, rest = b"\0\0", bytes([len(NATIVE_SECTION)]) + NATIVE_SECTION
    assert without_native(header + empty + rest) == header + empty + rest
    whole = b"\0" + bytes([len(rest)]) + rest
    assert without_native(header + whole) == header
