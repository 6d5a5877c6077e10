"""No page that can be executed can be written to, in the forkserver and all its forks.

ctypes makes a C function of a Python one in a page that libffi maps to be written and executed, or maps twice where a
security policy forbids that. No function is made after the forkserver's start, and none is ever given back.
"""

from __future__ import annotations

from .. import linux


def seal() -> None:
    """Take the right to write from every mapping of code. Raises ``OSError``."""
    with open("/proc/self/maps", "rb") as file:
        maps = [line.split(maxsplit=5) for line in file]  # addresses, rights, offset, device, inode, name (proc(5))
    code = {(device, inode) for _, rights, _, device, inode, *_ in maps if b"x" in rights and inode != b"0"}
    for addresses, rights, _, device, inode, *_ in maps:
        alias = b"s" in rights and (device, inode) in code
        if b"w" in rights and (b"x" in rights or alias):
            begin, end = (int(each, 16) for each in addresses.split(b"-"))
            linux.protect_memory(begin, end - begin, linux.PROT_READ | (linux.PROT_EXEC if b"x" in rights else 0))
