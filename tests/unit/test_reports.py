"""Errors that are made of a worker's report."""

from __future__ import annotations

import pytest

from sandbox_api.errors import Internal
from supervisor.ipc import reports


@pytest.mark.parametrize(("verdict", "kind"), [(b"X", reports.ModuleRefused), (b"F", Internal)])
def test_a_refusal_without_a_reason_says_so(verdict: bytes, kind: type[Exception]) -> None:
    error = reports.refusal(verdict, 256, False)
    assert isinstance(error, kind)
    assert str(error) == "the worker gave no reason"
    assert str(reports.refusal(verdict + b"why\xff", 256, False)) == "why\ufffd"
