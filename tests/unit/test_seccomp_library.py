"""libseccomp's binding: what it says where it is missing, and the names of calls."""

from __future__ import annotations

import pytest

from supervisor.seccomp import library
from supervisor.seccomp.allowed import worker_filters

from .bpf import numbers


def test_another_machine() -> None:
    with pytest.raises(library.SeccompMissing, match="riscv64"):
        worker_filters("riscv64")


def test_a_library_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "LIBRARY", "libnowhere.so.2")
    with pytest.raises(library.SeccompMissing, match="install the package"):
        worker_filters()


def test_names() -> None:
    calls = numbers("x86_64")
    assert (calls["read"], calls["socket"], calls["execve"], calls["landlock_restrict_self"]) == (0, 41, 59, 446)
    assert library.call_name(10**6) == "1000000"
