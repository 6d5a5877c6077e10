"""Errors and status codes: each kind of error has one code, and comes back from it as itself."""

from __future__ import annotations

import grpc
import pytest

from sandbox_api import errors, status
from sandbox_api.errors import SandboxerError

KINDS = SandboxerError.__subclasses__()


def test_the_kinds_are_known() -> None:
    assert {errors.NotFound, errors.FailedPrecondition, errors.Internal} <= set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_crosses_the_wire(kind: type[SandboxerError]) -> None:
    code, message = status.of(kind("what and why"), "Method")
    assert code != status.OK
    back = status.error(code, message)
    assert type(back) is kind
    assert str(back) == "what and why"


def test_no_two_kinds_share_a_code() -> None:
    codes = [status.of(kind("x"), "Method")[0] for kind in KINDS]
    assert sorted(codes) == sorted(set(codes))


@pytest.mark.parametrize("kind", KINDS)
def test_codes_are_grpc_s(kind: type[SandboxerError]) -> None:
    code, _ = status.of(kind("x"), "Method")
    (name,) = [each.name for each in grpc.StatusCode if each.value[0] == code]
    assert name.replace("_", "") == kind.__name__.upper()


def test_a_kind_of_a_kind_has_its_code() -> None:
    class Gone(errors.NotFound):
        pass

    assert status.of(Gone("what and why"), "Method") == status.of(errors.NotFound("what and why"), "Method")


def test_unforeseen_errors_are_internal_and_say_where() -> None:
    assert status.of(KeyError("x"), "Create") == (13, "Create: KeyError: 'x'")


@pytest.mark.parametrize("code", [1, 2, 7, 10, 11, 15, 16, 17, -1, 1 << 30])
def test_a_code_of_nobody_s_is_internal(code: int) -> None:
    assert type(status.error(code, "x")) is errors.Internal


def test_a_message_of_any_length_arrives() -> None:
    """gRPC's clients took one of some kilobytes for RESOURCE_EXHAUSTED: what was wrong was not to be read."""
    _, message = status.of(errors.NotFound(f"sandbox {'x' * 4_000_000!r}: no such sandbox"), "Status")
    assert message.startswith("sandbox 'xxx")
    assert message.endswith("xxx': no such sandbox")
    assert len(message) < status.MOST_CHARACTERS
    assert status.of(errors.NotFound("y" * status.MOST_CHARACTERS), "Status")[1] == "y" * status.MOST_CHARACTERS
