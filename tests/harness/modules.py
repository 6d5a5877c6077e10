"""Modules made byte by byte, for what no C compiler would write."""

from __future__ import annotations

from pathlib import Path

from . import interpreters

MAGIC = b"\0asm\1\0\0\0"


def leb(value: int) -> bytes:
    """An unsigned LEB128."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def vector(*items: bytes) -> bytes:
    return leb(len(items)) + b"".join(items)


def section(number: int, body: bytes) -> bytes:
    return bytes([number]) + leb(len(body)) + body


def custom(name: bytes, body: bytes) -> bytes:
    return section(0, leb(len(name)) + name + body)


def start(code: bytes, locals_: int = 4, sockets: bool = False) -> bytes:
    """A module whose ``_start`` is this code; it has ``locals_`` of type i32.

    With ``sockets`` it imports a function of WASI's that WasmEdge alone has.
    """
    body = vector(leb(locals_) + b"\x7f") + code + b"\x0b"
    name = b"wasi_snapshot_preview1"
    imported = [leb(len(name)) + name + leb(9) + b"sock_open" + b"\0\1"] if sockets else []
    return MAGIC + b"".join(
        (
            section(1, vector(b"\x60\0\0", b"\x60\3\x7f\x7f\x7f\1\x7f")),  # () -> (), and sock_open's
            section(2, vector(*imported)),
            section(3, vector(b"\0")),
            section(5, vector(b"\0\1")),  # one page of memory
            section(7, vector(leb(6) + b"_start" + b"\0" + leb(len(imported)), leb(6) + b"memory" + b"\2\0")),
            section(10, vector(leb(len(body)) + body)),
        )
    )


def laborious(steps: int, sockets: bool = False) -> bytes:
    """Runs in no time and takes long to compile: many branches on what is not known before it runs.

    ``sockets`` as of ``start``.
    """
    # local 0 = mem[8 * n]; if (local 0 & n) local 1 += local 0 * n else local 2 ^= local 1
    step = (
        b"\x41%s\x28\2\0\x21\0"  # i32.const, i32.load, local.set 0
        b"\x20\0\x41%s\x71\4\x40"  # local.get 0, i32.const, i32.and, if
        b"\x20\1\x20\0\x41%s\x6c\x6a\x21\1"
        b"\5\x20\2\x20\1\x73\x21\2\x0b"
    )
    parts = []
    for n in range(steps):
        small = leb(n % 63 + 1)
        parts.append(step % (leb(n % 64), small, small))
    # what was computed must be stored, or it is all thrown away
    return start(b"".join(parts) + b"\x41\0\x20\1\x20\2\x6a\x36\2\0", sockets=sockets)


def loops(depth: int) -> bytes:
    """Loops in loops: the better level goes deep into them, and needs time by the square of their number."""
    return start(b"\x03\x40" * depth + b"\x20\0\x41\1\x6a\x22\0\x41\5\x48\x0d\0\x0b" * depth)


def exits(status: int) -> bytes:
    """Ends with this status, up to 63, and does nothing else."""
    name = b"wasi_snapshot_preview1"
    body = b"\0\x41" + bytes([status]) + b"\x10\0\x0b"  # i32.const, call 0
    return MAGIC + b"".join(
        (
            section(1, vector(b"\x60\1\x7f\0", b"\x60\0\0")),
            section(2, vector(leb(len(name)) + name + leb(9) + b"proc_exit" + b"\0\0")),
            section(3, vector(b"\1")),
            section(5, vector(b"\0\1")),
            section(7, vector(leb(6) + b"_start" + b"\0\1", leb(6) + b"memory" + b"\2\0")),
            section(10, vector(leb(len(body)) + body)),
        )
    )


_COMPILE = """
from workers.engines.wasmedge import capi_compiler
library = capi_compiler.load()
library.WasmEdge_LogOff()
conf = library.WasmEdge_ConfigureCreate()
library.WasmEdge_ConfigureCompilerSetOutputFormat(conf, int(sys.argv[1]))
compiler = library.WasmEdge_CompilerCreate(conf)
code = open(sys.argv[2], "rb").read()
result = library.WasmEdge_CompilerCompileFromBuffer(compiler, code, len(code), sys.argv[3].encode())
sys.exit(not library.WasmEdge_ResultOK(result))
"""


def compiled(module: bytes, folder: Path, universal: bool) -> bytes:
    """Compile a module by WasmEdge itself: to a "universal" module, or a shared object."""
    source, product = folder / "source.wasm", folder / "product"
    source.write_bytes(module)
    interpreters.output(_COMPILE, str(int(universal)), str(source), str(product))
    return product.read_bytes()


def false_universal(says: bytes, does: bytes, folder: Path) -> bytes:
    """A universal module with the bytecode of one module and the machine code of another of the same shape."""
    whole = compiled(does, folder, universal=True)
    assert whole.startswith(does)
    return says + whole[len(does) :]


WAIT = (
    b"\x41\x10\x41\x01\x36\x02\0\x41\x18\x42\x80\xa0\x94\xa5\x8d\x1d\x37\x03\0"  # clock and time-out
    b"\x41\0\x41\xc0\0\x41\x01\x41\xc0\x01\x10\x01\x1a"
)
"""Code of a start section: poll_oneoff(2) of 1,000 s on the monotonic clock."""
LOOP = b"\x03\x40\x0c\0\x0b"
TRAP = b"\0"
EXIT_7 = b"\x41\x07\x10\0"


def start_section(code: bytes, status: int = 5, missing: bool = False) -> bytes:
    """A module with this code in its start section, whose ``_start`` ends with ``status``."""
    name = b"wasi_snapshot_preview1"
    imports = [
        leb(len(name)) + name + leb(9) + b"proc_exit" + b"\0\1",
        leb(len(name)) + name + leb(11) + b"poll_oneoff\0\2",
    ]
    first = 2
    if missing:
        imports.append(b"\3env\7missing\0\0")
        first = 3
    bodies = [b"\0" + code + b"\x0b", b"\0\x41" + bytes([status]) + b"\x10\0\x0b"]
    return MAGIC + b"".join(
        (
            section(1, vector(b"\x60\0\0", b"\x60\1\x7f\0", b"\x60\4\x7f\x7f\x7f\x7f\1\x7f")),
            section(2, vector(*imports)),
            section(3, vector(b"\0", b"\0")),
            section(5, vector(b"\0\1")),
            section(7, vector(leb(6) + b"_start" + b"\0" + bytes([first + 1]), leb(6) + b"memory" + b"\2\0")),
            section(8, bytes([first])),
            section(10, vector(*(leb(len(body)) + body for body in bodies))),
        )
    )


def wants_memory(pages: int) -> bytes:
    """A module that begins with so many pages of memory, and has data at the end of the last."""
    *low, high = leb(pages * 65536 - 8)
    offset = b"\x41" + bytes([*low, high | 0x80, 0]) + b"\x0b"  # i32.const, of a number that is not negative
    exports = vector(leb(6) + b"_start" + b"\0\0", leb(6) + b"memory" + b"\2\0")
    return MAGIC + b"".join(
        (
            section(1, vector(b"\x60\0\0")),  # () -> ()
            section(3, vector(b"\0")),
            section(5, vector(b"\0" + leb(pages))),
            section(7, exports),
            section(10, vector(b"\2\0\x0b")),
            section(11, vector(b"\0" + offset + b"\1x")),
        )
    )


def final_exceptions(status: int) -> bytes:
    """A module that throws and catches by the final form of exceptions, and ends with ``status``."""
    name = b"wasi_snapshot_preview1"
    #   block $caught; try_table (catch 0 0); throw 0; end; end; proc_exit(status)
    body = b"\0\x02\x40\x1f\x40\x01\0\0\0\x08\0\x0b\x0b\x41" + bytes([status]) + b"\x10\0\x0b"
    return MAGIC + b"".join(
        (
            section(1, vector(b"\x60\0\0", b"\x60\1\x7f\0")),
            section(2, vector(leb(len(name)) + name + leb(9) + b"proc_exit" + b"\0\1")),
            section(3, vector(b"\0")),
            section(5, vector(b"\0\1")),
            section(13, vector(b"\0\0")),
            section(7, vector(leb(6) + b"_start" + b"\0\1", leb(6) + b"memory" + b"\2\0")),
            section(10, vector(leb(len(body)) + body)),
        )
    )


def no_code(call: str) -> dict[str, object]:
    """A container's seccomp profile (config-linux.md) in which this call maps no machine code."""
    executable = {"index": 2, "value": 4, "valueTwo": 4, "op": "SCMP_CMP_MASKED_EQ"}
    rule = {"names": [call], "action": "SCMP_ACT_ERRNO", "args": [executable]}
    return {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}
