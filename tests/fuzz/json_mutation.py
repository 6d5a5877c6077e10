"""Changes to JSON that leave it JSON: values at some places are exchanged, doubled, removed or edited."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 0.5, 1e400, "", [], {}, "0", "a", "/", "//", ".", "..", "/..", "/a/../..", "\0"),
    *("\ud800", "\udcff", "é", "a=b", "a\nb", ":", "9" * 5000, "/" + "a" * 5000, 1 << 31, 1 << 32, 1 << 63, 1 << 64),
    *(-(1 << 63), 10**400, [[]], [None], {"": None}, "\u0661", "1e9", " ", "%s", "-0"),
)
_EDITS = ("\0", "\ud800", "/", "..", "/../", ":", "=", ",", "\n", " ", "-", "é", "\u0661", "9", "a" * 300)


def mutator(keys: Sequence[str]) -> Any:
    """A mutator for objects that have such keys."""

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        import atheris  # present wherever something is mutated

        chance = random.Random(seed)
        try:
            if chance.random() < 0.15:
                raise ValueError
            whole = [json.loads(data)]
            for _ in range(chance.choice((1, 1, 1, 2, 3))):
                _change(whole, keys, chance, 50 if len(data) * 200 < most else 1)
            changed = json.dumps(whole[0], ensure_ascii=chance.random() < 0.8).encode(errors="surrogatepass")
        except (ValueError, RecursionError):
            return bytes(atheris.Mutate(data, most))
        return changed if len(changed) <= most else bytes(atheris.Mutate(data, most))

    return mutate


def _change(whole: list[Any], keys: Sequence[str], chance: random.Random, many: int) -> None:
    places = list(_places(whole))
    owner, at = chance.choice(places)
    match chance.randrange(6):
        case 0:
            owner[at] = _some(chance)
        case 1:
            owner[at] = _edited(owner[at], chance)
        case 2:
            other, there = chance.choice(places)
            owner[at] = deepcopy(other[there])
        case 3 if owner is not whole:
            del owner[at]
        case 4 if isinstance(owner, list):
            owner[at:at] = [deepcopy(owner[at]) for _ in range(chance.choice((1, 1, 2, many)))]
        case _:
            value = owner[at]
            if isinstance(value, dict):
                value[chance.choice(keys) if keys else "a"] = _some(chance)
            else:
                owner[at] = _edited(value, chance)


def _places(owner: Any) -> Any:
    """Every place in it, as an object or a list and a key of it."""
    left = [owner]
    while left:
        each = left.pop()
        for key in list(each) if isinstance(each, dict) else range(len(each)):
            yield each, key
            if isinstance(each[key], dict | list):
                left.append(each[key])


def _edited(value: Any, chance: random.Random) -> Any:
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int):
        return chance.choice((value + 1, value - 1, -value, value * 2, 1 << chance.randrange(70), value // 2))
    if isinstance(value, str):
        at = chance.randrange(len(value) + 1)
        until = min(len(value), at + chance.choice((0, 0, 1, 3, 1000)))
        return value[:at] + chance.choice(_EDITS) + value[until:]
    return _some(chance)


def _some(chance: random.Random) -> Any:
    """One of the values; a copy, since the next change may be made in it."""
    return deepcopy(chance.choice(VALUES))
