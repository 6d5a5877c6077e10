"""Plans of C calls: machine code and Python carry them out alike."""

from __future__ import annotations

import ctypes
import errno
import random
import struct

import pytest

from workers.calls.call_list import ANY, FALSE, NEGATIVE, NEVER, NONZERO, ZERO, At, Mark, Plan, Runner, Step

LAST = 77


@pytest.fixture(params=[True, False], ids=["machine code", "Python"])
def runner(request: pytest.FixtureRequest) -> Runner:
    return Runner(native=request.param)


def carry_out(runner: Runner, plan: Plan) -> Step:
    """Run a plan to its end, or to the step before that fails."""
    plan.libc("strlen", b"end", fails=ANY, label=LAST)
    size = len(plan.finish(0))
    memory = ctypes.create_string_buffer(size)
    memory.raw = plan.finish(ctypes.addressof(memory))
    step = runner.run(ctypes.addressof(memory))
    ctypes.memset(memory, 0, size)  # what is looked at later was taken before
    return step


def test_calls_take_eight_arguments_and_leave_results(runner: Runner) -> None:
    plan = Plan()
    said, length = plan.data(bytes(64)), plan.slot()
    plan.libc("snprintf", said, 64, b"%d %s %d %d %d", -1, b"two", 3, 4, 5, out=length)
    plan.libc("memcmp", said, b"-1 two 3 4 5", 13, fails=NONZERO)
    plan.libc("strnlen", said, At(length), fails=ANY, label=1)
    step = carry_out(runner, plan)
    assert (step.label, runner.result, step.arguments[1]) == (1, 12, 12)


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
def test_what_is_a_failure(runner: Runner, fails: int, name: str, argument: int | bytes, good: bool) -> None:
    plan = Plan()
    plan.libc(name, argument, fails=fails, label=3)
    assert (carry_out(runner, plan).label == LAST) is good


def test_a_failure_has_its_errno_and_ends_the_plan_or_leads_elsewhere(runner: Runner) -> None:
    plan = Plan()
    elsewhere = Mark()
    plan.libc("close", 1 << 20, fails=NEGATIVE, orelse=elsewhere)
    plan.libc("abort")
    plan.place(elsewhere)
    plan.libc("open", b"/nowhere", 0, fails=NEGATIVE, label=5)
    plan.libc("abort")
    step = carry_out(runner, plan)
    assert (step.label, ctypes.get_errno(), len(step.arguments)) == (5, errno.ENOENT, 2)


def test_a_plan_can_go_back_and_forth(runner: Runner) -> None:
    plan = Plan()
    again, out = Mark(), Mark()
    rest = plan.data(b"aaab")
    at = plan.table([rest])
    plan.place(again)
    plan.libc("memcmp", At(at), b"a", 1, fails=NONZERO, orelse=out)
    plan.libc("rawmemchr", At(at), ord("a"))
    plan.libc("memmove", rest, rest + 1, 4)
    plan.go(again)
    plan.place(out)
    plan.libc("strlen", rest, fails=ANY, label=6)
    assert carry_out(runner, plan).label == 6
    assert runner.result == 1


def test_tables_hold_pointers(runner: Runner) -> None:
    plan = Plan()
    words = plan.table([b"one", plan.data(b"two"), 3])
    plan.libc("strcmp", At(words), b"one", fails=NONZERO)
    plan.libc("strcmp", At(words + 8), b"two", fails=NONZERO)
    plan.libc("labs", At(words + 16), fails=ANY, label=8)
    assert carry_out(runner, plan).label == 8
    assert runner.result == 3


def test_perform_raises_what_failed(runner: Runner) -> None:
    plan = Plan()
    plan.libc("strlen", b"fine")
    runner.perform(plan)
    plan = Plan()
    plan.libc("close", 1 << 20, fails=NEGATIVE)
    with pytest.raises(OSError, match="Bad file descriptor"):
        runner.perform(plan)


def test_machine_code_and_python_agree() -> None:
    """On plans drawn at random, with jumps forward only."""
    chance = random.Random(7)
    for _ in range(300):
        ends = []
        for native in (True, False):
            numbers = random.Random(chance.getstate()[1][0])
            plan = Plan()
            slots = [plan.table([numbers.getrandbits(64)]) for _ in range(4)]
            marks: list[Mark] = []
            for label in range(numbers.randint(1, 12)):
                for mark in [each for each in marks if numbers.random() < 0.5]:
                    plan.place(mark)
                    marks.remove(mark)
                orelse = Mark() if numbers.random() < 0.5 else None
                if orelse:
                    marks.append(orelse)
                plan.libc(
                    numbers.choice(["labs", "abs", "ffsl", "isalpha", "toupper"]) if label % 2 else "labs",
                    At(numbers.choice(slots)) if label % 2 == 0 else numbers.choice([0, 1, 65, 97, 255]),
                    fails=numbers.choice([NEVER, NEGATIVE, NONZERO, ZERO, FALSE, ANY]),
                    label=label,
                    out=numbers.choice(slots) if label % 2 == 0 else 0,
                    orelse=orelse,
                )
            for mark in marks:
                plan.place(mark)
            step = carry_out(runner := Runner(native=native), plan)
            ends.append((step.label, step.arguments if step.label != LAST else None, runner.result & 0xFFFFFFFF))
        assert ends[0] == ends[1]
        chance.random()


def test_a_step_reads_back_as_it_was_drawn(runner: Runner) -> None:
    plan = Plan()
    value = plan.table([struct.unpack("<Q", b"eight by")[0]])
    plan.libc("labs", At(value), 2, None, 4, 5, 6, 7, -1, fails=ANY, label=1 << 31)
    step = carry_out(runner, plan)
    assert step.label == 1 << 31
    assert step.arguments == [struct.unpack("<Q", b"eight by")[0], 2, 0, 4, 5, 6, 7, (1 << 64) - 1]
