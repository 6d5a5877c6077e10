"""Runs a seccomp program, which is 32-bit classic BPF over ``struct seccomp_data``, as the kernel would."""

from __future__ import annotations

import struct

from supervisor.seccomp.library import call_names

MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
I386 = 0x40000003
ALLOW, TRAP, KILL, ERRNO = 0x7FFF0000, 0x00030000, 0x00000000, 0x00050000
KILL_PROCESS = 0x80000000
HIGH = 1 << 32


def verdict(program: bytes, call: int, *arguments: int, arch: int = MACHINES["x86_64"]) -> int:
    """Return the action for a call (seccomp(2); the instructions are linux/filter.h's)."""
    padded = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    data = struct.pack("<iIQ6Q", call, arch, 0, *(value & 0xFFFFFFFFFFFFFFFF for value in padded))
    code = list(struct.iter_unpack("<HBBI", program))
    at, accumulator = 0, 0
    while True:
        operation, yes, no, k = code[at]
        at += 1
        if operation == 0x20:  # ld [k]
            accumulator = struct.unpack_from("<I", data, k)[0]
        elif operation == 0x54:  # and k
            accumulator &= k
        elif operation == 0x05:  # ja
            at += k
        elif operation in (0x15, 0x25, 0x35):  # jeq, jgt, jge
            holds = {0x15: accumulator == k, 0x25: accumulator > k, 0x35: accumulator >= k}[operation]
            at += yes if holds else no
        elif operation == 0x06:  # ret
            return k
        else:
            raise AssertionError(f"instruction {operation:#x}")


def numbers(machine: str) -> dict[str, int]:
    """Numbers of a machine's system calls, by name."""
    names = call_names(machine).decode().split("\n")
    return {name: number for number, name in enumerate(names) if name}
