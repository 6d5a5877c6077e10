"""Four routines in machine code, for what a worker must do without Python.

Every Python instruction after a fork writes to pages that were shared: reference counts, inline caches, frames. A
worker that runs no Python until its guest has ended is a third of the size and starts in a third of the time
(docs/architecture.md). ``run`` therefore makes the C calls of a ``CallList`` one after the other; ``hook`` is for
``altstack``, ``exit`` for an engine whose proc_exit takes fewer statuses, ``handler`` for a signal. On a machine that
is not listed here, Python makes the calls.

``run(step, result)`` makes the call of each step and goes on with the next, or, where the call's result is not as
the step wants it, with the step that it names for that; where it names none, the failed step is returned. A step is
(offsets in bytes): 0 the function; 8 a bit for each argument that is not the value but where it lies; 9 the verdict
that is a failure's opposite; 10 the step's length; 12 a label; 16 where to store the result, or 0; 24 a mask: the
verdict is whether the result has one of its bits; 32 where to go on after a failure, or 0; 40 up to 8 arguments.
"""

from __future__ import annotations

import posix

from .. import linux

_RUN = {
    "x86_64": (
        "53 55 4154"  # push rbx; push rbp; push r12
        "4889fb 4989f4"  # mov rbx, rdi (the step); mov r12, rsi (the last result)
        "bd08000000 0fb64b08"  # step: mov ebp, 8; movzx ecx, byte [rbx+8]
        "ffcd 488b44eb28"  # load: dec ebp; mov rax, [rbx+rbp*8+40]
        "0fa3e9 7303 488b00"  # bt ecx, ebp; jnc +3; mov rax, [rax]
        "50 85ed 75ec"  # push rax; test ebp, ebp; jnz load
        "5f 5e 5a 59 4158 4159"  # pop rdi, rsi, rdx, rcx, r8, r9: two arguments stay on the stack (System V ABI)
        "31c0 ff13 4883c410"  # xor eax, eax (no vector arguments); call [rbx]; add rsp, 16
        "49890424"  # mov [r12], rax
        "488b4b10 4885c9 7403 488901"  # mov rcx, [rbx+16]; test rcx, rcx; jz +3; mov [rcx], rax
        "48854318 0f95c0 3a4309 7509"  # test [rbx+24], rax; setnz al; cmp al, [rbx+9]; jne fails
        "0fb7430a 4801c3 ebae"  # movzx eax, word [rbx+10]; add rbx, rax; jmp step
        "4889d8 488b5b20 4885db 75a2"  # fails: mov rax, rbx; mov rbx, [rbx+32]; test rbx, rbx; jnz step
        "415c 5d 5b c3"  # pop r12; pop rbp; pop rbx; ret
    ),
    "aarch64": (
        "fd7bbea9 f35301a9 f30300aa f40301aa"  # stp x29, x30, [sp, #-32]!; stp x19, x20, [sp, #16]; mov x19, x0 ..
        "69224039"  # step: ldrb w9, [x19, #8]
        "608642a9 628e43a9 649644a9 669e45a9"  # ldp x0, x1, [x19, #40] .. ldp x6, x7, [x19, #88]
        "49000036 000040f9 49000836 210040f9"  # tbz w9, #0, +8; ldr x0, [x0] .. (AAPCS64: all eight in registers)
        "49001036 420040f9 49001836 630040f9"
        "49002036 840040f9 49002836 a50040f9"
        "49003036 c60040f9 49003836 e70040f9"
        "680240f9 00013fd6 800200f9"  # ldr x8, [x19]; blr x8; str x0, [x20]
        "692a41a9 490000b4 200100f9"  # ldp x9, x10, [x19, #16]; cbz x9, +8; str x0, [x9]
        "1f000aea e0079f1a 69264039 1f00096b"  # tst x0, x10; cset w0, ne; ldrb w9, [x19, #9]; cmp w0, w9
        "81000054 69164079 7302098b deffff17"  # b.ne fails; ldrh w9, [x19, #10]; add x19, x19, x9; b step
        "e00313aa 731240f9 73fbffb5"  # fails: mov x0, x19; ldr x19, [x19, #32]; cbnz x19, step
        "f35341a9 fd7bc2a8 c0035fd6"  # ldp x19, x20, [sp, #16]; ldp x29, x30, [sp], #32; ret
    ),
}

# hook(number, new, old) adds SA_ONSTACK (sigaction(2)) to the flags of *new, and goes on to the function whose address
# follows it. The flags stand after the handler and 1,024 bits of mask.
_HOOK = {
    "x86_64": (
        "4885f6 740a 818e8800000000000008"  # test rsi, rsi; jz +10; or dword [rsi+136], 0x08000000
        "ff2500000000"  # jmp [rip]
    ),
    "aarch64": (
        "810000b4 298840b9 29010532 298800b9"  # cbz x1, +16; ldr w9, [x1, #136]; orr w9, w9, #0x08000000; str ..
        "49000058 20011fd6"  # ldr x9, +8; br x9
    ),
}

# exit(environment, caller, values, count) goes on to the function whose address follows it, with the first value.
_EXIT = {
    "x86_64": "8b3a ff2500000000",  # mov edi, [rdx]; jmp [rip]
    "aarch64": "400040b9 49000058 20011fd6",  # ldr w0, [x2]; ldr x9, +8; br x9
}

# handler(number, information, context) notes the second, and goes on to ``run`` with a list and a place for results.
# Four addresses follow it, or stand in it: where to note, the list, the place, and ``run``.
_HANDLER = {
    "x86_64": (
        "48b8{} 488930"  # mov rax, place; mov [rax], rsi
        "48bf{} 48be{}"  # mov rdi, list; mov rsi, result
        "48b8{} ffe0"  # mov rax, run; jmp rax
    ),
    "aarch64": (
        "c9000058 210100f9 c0000058 e1000058"  # ldr x9, +24; str x1, [x9]; ldr x0, +24; ldr x1, +28
        "09010058 20011fd6 {}{}{}{}"  # ldr x9, +32; br x9
    ),
}

_MACHINE = posix.uname().machine


def run_code(machine: str = _MACHINE) -> bytes:
    """The routine ``run``; empty where there is none for this machine."""
    return bytes.fromhex(_RUN.get(machine, ""))


def hook_code(function: int, machine: str = _MACHINE) -> bytes:
    """The routine ``hook``, leading to ``function``; empty where there is none for this machine."""
    code = bytes.fromhex(_HOOK.get(machine, ""))
    return code + function.to_bytes(8, "little") if code else b""


def exit_code(function: int, machine: str = _MACHINE) -> bytes:
    """The routine ``exit``, leading to ``function``; empty where there is none for this machine."""
    code = bytes.fromhex(_EXIT.get(machine, ""))
    return code + function.to_bytes(8, "little") if code else b""


def handler_code(note: int, calls: int, result: int, run: int, machine: str = _MACHINE) -> bytes:
    """The routine ``handler`` with these addresses; empty where there is none for this machine."""
    addresses = (each.to_bytes(8, "little").hex() for each in (note, calls, result, run))
    return bytes.fromhex(_HANDLER.get(machine, "").format(*addresses))


def load(code: bytes) -> int:
    """The address of ``code``, mapped for good to be read and executed. Raises ``OSError``.

    From a file in memory, so that no page is ever both writable and executable.
    """
    file = posix.memfd_create("code", posix.MFD_CLOEXEC)
    try:
        posix.write(file, code)
        return linux.map_memory(len(code), linux.PROT_READ | linux.PROT_EXEC, file, linux.behind_libraries())
    finally:
        posix.close(file)
