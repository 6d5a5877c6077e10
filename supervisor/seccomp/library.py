"""libseccomp through ctypes: builds one filter, for one machine's architecture, as a program for seccomp(2).

One of its Python bindings is not on the package index; the other (pyseccomp) has had no release since January 2021.
Filters are built in the supervisor and never in the forkserver, where each fork pays for every library. A filter is for
one architecture and no other ABI of it (libseccomp's "bad architecture"): x32 and 32-bit calls trap like any
forbidden call.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform

LIBRARY = "libseccomp.so.2"

KILL_PROCESS, KILL_THREAD, TRAP, ERRNO, TRACE = 0x80000000, 0, 0x00030000, 0x00050000, 0x7FF00000
LOG, ALLOW = 0x7FFC0000, 0x7FFF0000
"""Actions (seccomp(2)); ERRNO and TRACE carry a number in their low 16 bits."""

NE, LT, LE, EQ, GE, GT, MASKED_EQ = range(1, 8)
"""Operators (``enum scmp_compare``)."""

_ARCHES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # linux/audit.h
_CALLS = 512  # numbers go no higher yet (456 in libseccomp 2.5.4)
_NO_CALL = -1  # a name that libseccomp does not know
_ATTR_BADARCH, _ATTR_OPTIMIZE = 2, 8
_BINARY_TREE = 2  # a third less time to install than a list of comparisons


class SeccompMissing(Exception):
    """Filters cannot be built on this machine; the text says why and what to do."""


class Compare(ctypes.Structure):
    """``struct scmp_arg_cmp``: argument ``arg`` compared with ``a``; masked with ``a`` and compared with ``b``."""

    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


def low(argument: int, value: int, mask: int = 0xFFFFFFFF) -> Compare:
    """Compare the low 32 bits of an argument, which are all that the kernel looks at in an ``int``."""
    return Compare(argument, MASKED_EQ, mask, value)


class FilterBuilder:
    """One filter under construction (seccomp_init(3) and its like). A context manager.

    Raises ``SeccompMissing`` where it cannot be begun, and ``OSError`` where libseccomp refuses a rule.
    """

    def __init__(self, default: int, machine: str) -> None:
        self._lib = _load()
        self._default = default
        arch = _arch(machine)
        self._context = ctypes.c_void_p(self._lib.seccomp_init(default))
        self._native = self._lib.seccomp_arch_native()
        if self._native != arch:
            self._check(self._lib.seccomp_arch_add(self._context, arch), machine)
            self._check(self._lib.seccomp_arch_remove(self._context, self._native), machine)
        self._lib.seccomp_attr_set(self._context, _ATTR_BADARCH, TRAP)
        self._lib.seccomp_attr_set(self._context, _ATTR_OPTIMIZE, _BINARY_TREE)  # 2.5 and later, else slower

    def __enter__(self) -> FilterBuilder:
        return self

    def __exit__(self, *_: object) -> None:
        self._lib.seccomp_release(self._context)

    def rule(self, action: int, name: str, *compares: Compare) -> None:
        """Take ``action`` on a call where all of ``compares`` hold. A call this machine has not is passed over."""
        # libseccomp wants the number of the machine it runs on, and translates it.
        number = self._lib.seccomp_syscall_resolve_name_arch(self._native, name.encode())
        if number == _NO_CALL or action == self._default:
            return
        array = (Compare * len(compares))(*compares)
        result = self._lib.seccomp_rule_add_array(self._context, action, number, len(compares), array)
        if result != -errno.EEXIST:
            self._check(result, name)

    def program(self) -> bytes:
        """The filter as the kernel takes it."""
        fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
        try:
            self._check(self._lib.seccomp_export_bpf(self._context, fd), "export")
            return os.pread(fd, os.fstat(fd).st_size, 0)
        finally:
            os.close(fd)

    def _check(self, result: int, what: str) -> None:
        if result < 0:
            raise OSError(-result, f"{LIBRARY}: {what}: {os.strerror(-result)}")


def call_names(machine: str = platform.machine()) -> bytes:
    """The names of all system calls, by number, a line each; an empty line where there is none.

    Raises ``SeccompMissing``.
    """
    lib = _load()
    names = []
    for number in range(_CALLS):
        name = lib.seccomp_syscall_resolve_num_arch(_arch(machine), number)
        names.append(ctypes.string_at(name) if name else b"")
        _free(name)
    return b"\n".join(names).rstrip(b"\n")


def call_name(number: int) -> str:
    """The name of a system call of this machine, or its number where it has none."""
    names = call_names().decode().split("\n")
    return names[number] if 0 <= number < len(names) and names[number] else str(number)


def _arch(machine: str) -> int:
    arch = _ARCHES.get(machine)
    if arch is None:
        raise SeccompMissing(f"no system calls have been measured on {machine}, only on {' and '.join(_ARCHES)}")
    return arch


def _load() -> ctypes.CDLL:
    try:
        lib = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise SeccompMissing(
            f"{LIBRARY} does not load ({error}): install the package libseccomp2 (Debian) or libseccomp"
        ) from None
    lib.seccomp_init.restype = ctypes.c_void_p
    lib.seccomp_init.argtypes = (ctypes.c_uint32,)
    lib.seccomp_arch_native.restype = ctypes.c_uint32
    lib.seccomp_arch_add.argtypes = lib.seccomp_arch_remove.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
    lib.seccomp_attr_set.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32)
    lib.seccomp_rule_add_array.argtypes = (
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.c_void_p,
    )
    lib.seccomp_export_bpf.argtypes = (ctypes.c_void_p, ctypes.c_int)
    lib.seccomp_release.restype = None
    lib.seccomp_release.argtypes = (ctypes.c_void_p,)
    lib.seccomp_syscall_resolve_name_arch.argtypes = (ctypes.c_uint32, ctypes.c_char_p)
    lib.seccomp_syscall_resolve_num_arch.restype = ctypes.c_void_p
    lib.seccomp_syscall_resolve_num_arch.argtypes = (ctypes.c_uint32, ctypes.c_int)
    return lib


_free = ctypes.CDLL(None).free
_free.restype = None
_free.argtypes = (ctypes.c_void_p,)
