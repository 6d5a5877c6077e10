"""Lists of C calls: machine code and Python make them alike."""

from __future__ import annotations

import ctypes
import errno
import random
import struct

import pytest

from workers.calls import machine
from workers.calls.call_list import (
    ANY,
    FALSE,
    NEGATIVE,
    NEGATIVE_LONG,
    NEVER,
    NONZERO,
    ZERO,
    At,
    CallList,
    Label,
    PartialList,
    Runner,
    Step,
)

LAST = 77


@pytest.fixture(params=[True, False], ids=["machine code", "Python"])
def runner(request: pytest.FixtureRequest) -> Runner:
    return Runner(native=request.param)


def carry_out(runner: Runner, calls: CallList) -> Step:
    """Run a list to its end, or to the step before that fails."""
    calls.libc("strlen", b"end", fails=ANY, stage=LAST)
    size = len(calls.finish(0))
    memory = ctypes.create_string_buffer(size)
    memory.raw = calls.finish(ctypes.addressof(memory))
    step = runner.run(ctypes.addressof(memory))
    ctypes.memset(memory, 0, size)  # what is looked at later was taken before
    return step


def test_calls_take_eight_arguments_and_leave_results(runner: Runner) -> None:
    calls = CallList()
    said, length = calls.data(bytes(64)), calls.slot()
    calls.libc("snprintf", said, 64, b"%d %s %d %d %d", -1, b"two", 3, 4, 5, out=length)
    calls.libc("memcmp", said, b"-1 two 3 4 5", 13, fails=NONZERO)
    calls.libc("strnlen", said, At(length), fails=ANY, stage=1)
    step = carry_out(runner, calls)
    assert (step.stage, runner.result, step.arguments[1]) == (1, 12, 12)


@pytest.mark.parametrize(
    ("fails", "name", "argument", "good"),
    [
        (NEVER, "abs", -1, True),
        (NEGATIVE, "close", -1, False),
        (NEGATIVE, "abs", -1, True),
        (NONZERO, "abs", 0, True),
        (NONZERO, "abs", -7, False),
        (ZERO, "strlen", b"", False),
        (ZERO, "strlen", b"x", True),
        (FALSE, "abs", 0, False),
        (FALSE, "abs", 256, False),
        (FALSE, "abs", 257, True),
        (ANY, "strlen", b"", True),
        (ANY, "labs", -(1 << 40), False),
        (NONZERO, "labs", -(1 << 40), True),
    ],
)
def test_kinds_of_failure(runner: Runner, fails: int, name: str, argument: int | bytes, good: bool) -> None:
    calls = CallList()
    calls.libc(name, argument, fails=fails, stage=3)
    assert (carry_out(runner, calls).stage == LAST) is good


def test_a_failure_has_its_errno_and_ends_the_list_or_leads_elsewhere(runner: Runner) -> None:
    calls = CallList()
    elsewhere = Label()
    calls.libc("close", 1 << 20, fails=NEGATIVE, orelse=elsewhere)
    calls.libc("abort")
    calls.bind(elsewhere)
    calls.libc("open", b"/nowhere", 0, fails=NEGATIVE, stage=5)
    calls.libc("abort")
    step = carry_out(runner, calls)
    assert (step.stage, ctypes.get_errno(), len(step.arguments)) == (5, errno.ENOENT, 2)


def test_a_plan_can_go_back_and_forth(runner: Runner) -> None:
    calls = CallList()
    again, out = Label(), Label()
    rest = calls.data(b"aaab")
    at = calls.table([rest])
    calls.bind(again)
    calls.libc("memcmp", At(at), b"a", 1, fails=NONZERO, orelse=out)
    calls.libc("rawmemchr", At(at), ord("a"))
    calls.libc("memmove", rest, rest + 1, 4)
    calls.go(again)
    calls.bind(out)
    calls.libc("strlen", rest, fails=ANY, stage=6)
    assert carry_out(runner, calls).stage == 6
    assert runner.result == 1


def test_tables_hold_pointers(runner: Runner) -> None:
    calls = CallList()
    words = calls.table([b"one", calls.data(b"two"), 3])
    calls.libc("strcmp", At(words), b"one", fails=NONZERO)
    calls.libc("strcmp", At(words + 8), b"two", fails=NONZERO)
    calls.libc("labs", At(words + 16), fails=ANY, stage=8)
    assert carry_out(runner, calls).stage == 8
    assert runner.result == 3


def test_perform_raises_what_failed(runner: Runner) -> None:
    calls = CallList()
    calls.libc("strlen", b"fine")
    runner.perform(calls)
    calls = CallList()
    calls.libc("close", 1 << 20, fails=NEGATIVE)
    with pytest.raises(OSError, match="Bad file descriptor"):
        runner.perform(calls)


def test_machine_code_and_python_agree() -> None:
    """On lists made at random, with jumps forward only."""
    chance = random.Random(7)
    for _ in range(300):
        ends = []
        for native in (True, False):
            numbers = random.Random(chance.getstate()[1][0])
            calls = CallList()
            slots = [calls.table([numbers.getrandbits(64)]) for _ in range(4)]
            labels: list[Label] = []
            for stage in range(numbers.randint(1, 12)):
                for label in [each for each in labels if numbers.random() < 0.5]:
                    calls.bind(label)
                    labels.remove(label)
                orelse = Label() if numbers.random() < 0.5 else None
                if orelse:
                    labels.append(orelse)
                calls.libc(
                    numbers.choice(["labs", "abs", "ffsl", "isalpha", "toupper"]) if stage % 2 else "labs",
                    At(numbers.choice(slots)) if stage % 2 == 0 else numbers.choice([0, 1, 65, 97, 255]),
                    fails=numbers.choice([NEVER, NEGATIVE, NONZERO, ZERO, FALSE, ANY]),
                    stage=stage,
                    out=numbers.choice(slots) if stage % 2 == 0 else 0,
                    orelse=orelse,
                )
            for label in labels:
                calls.bind(label)
            step = carry_out(runner := Runner(native=native), calls)
            ends.append((step.stage, step.arguments if step.stage != LAST else None, runner.result & 0xFFFFFFFF))
        assert ends[0] == ends[1]
        chance.random()


def test_step_reads_back_as_it_was_built(runner: Runner) -> None:
    calls = CallList()
    value = calls.table([struct.unpack("<Q", b"eight by")[0]])
    calls.libc("labs", At(value), 2, None, 4, 5, 6, 7, -1, fails=ANY, stage=1 << 31)
    step = carry_out(runner, calls)
    assert step.stage == 1 << 31
    assert step.arguments == [struct.unpack("<Q", b"eight by")[0], 2, 0, 4, 5, 6, 7, (1 << 64) - 1]


@pytest.mark.parametrize("args", [[], [b"one"], [b"", b"two", b"x" * 9, "\u00e9".encode()]])
@pytest.mark.parametrize("env", [[], [b"HOSTNAME=pod-1", b"A=b"]])
def test_partial_list_is_completed_with_arguments_and_environment(
    runner: Runner, args: list[bytes], env: list[bytes]
) -> None:
    """Each text is found by its table, and both numbers are as given, however often it is completed."""
    calls = CallList()
    seen = ctypes.create_string_buffer(8 * 8)
    calls.libc("memcpy", ctypes.addressof(seen), calls.args[0], 8 * len(args))
    calls.libc("memcpy", ctypes.addressof(seen) + 32, calls.env[0], 8 * len(env))
    argc, envc = calls.slot(), calls.slot()
    calls.libc("labs", calls.args[1], out=argc)
    calls.libc("labs", calls.env[1], out=envc)
    calls.libc("memcmp", argc, len(args).to_bytes(8, "little"), 8, fails=NONZERO, stage=1)
    calls.libc("memcmp", envc, len(env).to_bytes(8, "little"), 8, fails=NONZERO, stage=2)
    calls.libc("strlen", b"end", fails=ANY, stage=LAST)
    memory = ctypes.create_string_buffer(1 << 16)
    partial = PartialList(calls, ctypes.addressof(memory))
    assert len(partial.complete([b"another's"], [b"SECRET=1"])) > len(partial)
    code = partial.complete(args, env)
    assert b"SECRET" not in code
    ctypes.memmove(memory, code, len(code))
    assert runner.run(ctypes.addressof(memory)).stage == LAST
    pointers = struct.unpack("<8Q", seen.raw)
    assert [ctypes.string_at(each) for each in pointers[: len(args)]] == args
    assert [ctypes.string_at(each) for each in pointers[4 : 4 + len(env)]] == env


@pytest.mark.parametrize(("result", "fails"), [(-1, True), (-(1 << 40), True), (0, False), (1 << 31, False)])
def test_negative_numbers_of_64_bits_are_failures(runner: Runner, result: int, fails: bool) -> None:
    calls = CallList()
    calls.libc("atoll", str(result).encode(), fails=NEGATIVE_LONG, stage=1)
    assert (carry_out(runner, calls).stage == 1) == fails


def test_a_handler_in_machine_code_notes_what_it_was_given_and_makes_a_list() -> None:
    runner = Runner()
    if not runner.routine:
        pytest.skip("no machine code for this machine, or none is let")
    noted, result = ctypes.c_uint64(), ctypes.c_uint64()
    calls = CallList()
    copy = calls.slot()
    calls.libc("memcpy", copy, ctypes.addressof(noted), 8)
    calls.libc("labs", At(copy), fails=ANY)
    memory = ctypes.create_string_buffer(len(calls.finish(0)))
    memory.raw = calls.finish(ctypes.addressof(memory))
    places = (ctypes.addressof(noted), ctypes.addressof(memory), ctypes.addressof(result), runner.routine)
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_size_t, ctypes.c_size_t)(
        machine.load(machine.handler_code(*places))
    )
    handler(31, 0x1234_5678_9ABC, 7)
    assert noted.value == result.value == 0x1234_5678_9ABC


@pytest.mark.parametrize("name", ["x86_64", "aarch64"])
def test_a_handler_has_its_addresses(name: str) -> None:
    places = [0x1111_2222_3333_4440 + n for n in range(4)]
    code = machine.handler_code(places[0], places[1], places[2], places[3], name)
    assert all(code.count(place.to_bytes(8, "little")) == 1 for place in places)
    if name == "aarch64":  # ldr (literal): each leads to its own
        words = struct.unpack("<6I", code[:24])
        loads = {word & 31: 4 * i + 4 * (word >> 5 & 0x7FFFF) for i, word in enumerate(words) if word >> 24 == 0x58}
        assert [code[at : at + 8] for at in (loads[0], loads[1])] == [
            each.to_bytes(8, "little") for each in places[1:3]
        ]
        assert loads[9] == 48  # the second that goes into x9: run
    assert not machine.handler_code(1, 2, 3, 4, "riscv64")
