"""No device for the processes of a version 2 group: a program of the kernel's that says no (bpf(2), cgroup-v2.rst)."""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import struct
from contextlib import suppress

from ..host import errors

log = logging.getLogger(__name__)

_SYS_BPF = {"x86_64": 321, "ppc64le": 361, "s390x": 351}.get(platform.machine(), 280)  # asm-generic: aarch64, riscv64
_PROG_LOAD, _PROG_ATTACH = 5, 8
_TYPE_CGROUP_DEVICE = 15
_CGROUP_DEVICE = 6
_ALLOW_MULTI = 2
# r0 = 0: the access is denied; exit. struct bpf_insn: code, registers, offset, immediate.
_DENY = struct.pack("=BBhi", 0xB7, 0, 0, 0) + struct.pack("=BBhi", 0x95, 0, 0, 0)
_LICENSE = b"Apache-2.0\0"
_TRIES = 5  # a signal ends the load (EAGAIN, bpf(2)); as many as libbpf's
_ATTRIBUTES = 128  # bytes of union bpf_attr; the kernel takes a longer one while the rest of it is zero

_libc = ctypes.CDLL(None, use_errno=True)


class DeviceDenial:
    """The program, loaded when it is first needed."""

    __slots__ = ("_program", "_refused")

    def __init__(self) -> None:
        self._program = -1
        self._refused = False

    def attach(self, folder: str) -> bool:
        """Deny the processes of a group, and of groups below, to open or make any device.

        False where the kernel does not let us, which is logged once: the mounts' ``nodev`` stands without it. Raises
        ``OSError`` where the group is gone, or there is too little of something: that says nothing of the next group.
        """
        if self._refused:
            return False
        group = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if self._program < 0:
                self._program = _load()
            _bpf(_PROG_ATTACH, struct.pack("=IIII", group, self._program, _CGROUP_DEVICE, _ALLOW_MULTI))
        except OSError as error:
            if errors.lacking(error):
                raise
            self._refused = True
            log.warning("control groups do not keep containers from devices here (bpf: %s)", error.strerror)
            return False
        finally:
            os.close(group)
        return True


def _load() -> int:
    code, license_text = ctypes.create_string_buffer(_DENY), ctypes.create_string_buffer(_LICENSE)
    attributes = struct.pack(
        "=IIQQ", _TYPE_CGROUP_DEVICE, len(_DENY) // 8, ctypes.addressof(code), ctypes.addressof(license_text)
    )
    for _ in range(_TRIES - 1):
        with suppress(BlockingIOError):
            return _bpf(_PROG_LOAD, attributes)
    return _bpf(_PROG_LOAD, attributes)


def _bpf(command: int, attributes: bytes) -> int:
    buffer = ctypes.create_string_buffer(attributes, _ATTRIBUTES)
    result = _libc.syscall(
        ctypes.c_long(_SYS_BPF), ctypes.c_int(command), ctypes.byref(buffer), ctypes.c_uint(_ATTRIBUTES)
    )
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "bpf")
    return int(result)
