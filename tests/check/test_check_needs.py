"""Who waits for which value, against the definition."""

import random

import pytest

from cluster.check.history import NEVER
from cluster.check.needs import Needs

VALUES = 3


def naive(operations, lost, value, placed, placed_lost):
    """Somebody waits for `value`, and no maker that is left is called before he is answered."""
    makers = [
        call
        for n, (call, _, _, makes) in enumerate(operations)
        if n not in placed and makes == value
    ]
    makers += [
        call for n, (call, makes) in enumerate(lost) if n not in placed_lost and makes == value
    ]
    return any(
        n not in placed and sees == value and all(call > ret for call in makers)
        for n, (_, ret, sees, _) in enumerate(operations)
    )  # fmt: skip


def drawn(stream):
    """Operations by invocation: (call, ret, sees, makes); some that were not answered."""
    ranks = list(range(60))
    stream.shuffle(ranks)
    spans = sorted(sorted(ranks[2 * n : 2 * n + 2]) for n in range(stream.randint(1, 10)))
    operations = []
    for call, ret in spans:
        value = stream.randrange(VALUES)
        sees = value if stream.random() < 0.6 else None
        makes = stream.randrange(VALUES) if sees is None or stream.random() < 0.3 else None
        operations.append((call, ret, sees, makes))
    lost = sorted((ranks[40 + n], stream.randrange(VALUES)) for n in range(stream.randint(0, 4)))
    return operations, lost


def needs_of(operations, lost):
    needs = Needs(
        [call for call, _, _, _ in operations],
        [ret for _, ret, _, _ in operations],
        [call for call, _ in lost],
    )
    for n, (_, _, sees, makes) in enumerate(operations):
        needs.add(n, None if sees is None else (sees,), None if makes is None else (makes,))
    for n, (_, makes) in enumerate(lost):
        needs.add_lost(n, None, (makes,))
    needs.settle()
    return needs


def test_who_waits_in_vain_is_who_does_by_definition():
    stream = random.Random(6)
    answers = []
    for _ in range(4000):
        operations, lost = drawn(stream)
        needs = needs_of(operations, lost)
        base = stream.randint(0, len(operations))
        mask = stream.getrandbits(5) if base < len(operations) else 0
        mask &= (1 << (len(operations) - base)) - 1
        crashed = stream.getrandbits(4)
        placed = set(range(base)) | {base + n for n in range(5) if mask >> n & 1}
        placed_lost = {n for n in range(4) if crashed >> n & 1}
        for value in range(VALUES):
            expected = naive(operations, lost, value, placed, placed_lost)
            assert needs.unmet((value,), base, mask, crashed) == expected
            answers.append(expected)
            idle = not any(
                sees == value and n not in placed for n, (_, _, sees, _) in enumerate(operations)
            )
            assert needs.idle((value,), base, mask, crashed) == idle
    assert min(answers.count(True), answers.count(False)) > 1000


def test_a_value_that_an_open_operation_may_come_upon_is_not_idle():
    needs = Needs([0], [5], [1])
    needs.add(0, None, (1,))
    needs.add_lost(0, (1,), (2,))
    needs.settle()
    assert not needs.idle((1,), 0, 0, 0)
    assert needs.idle((1,), 0, 0, 1)
    assert needs.idle((2,), 0, 0, 0)


@pytest.mark.parametrize("initial", range(VALUES))
def test_what_nobody_can_make_is_impossible_unless_it_is_there(initial):
    stream = random.Random(initial)
    answers = []
    for _ in range(300):
        operations, lost = drawn(stream)
        expected = any(
            naive(operations, lost, value, set(), set()) for value in range(VALUES) if value != initial
        )  # fmt: skip
        assert needs_of(operations, lost).impossible((initial,)) == expected
        answers.append(expected)
    assert set(answers) == {True, False}


def test_whoever_was_never_answered_does_not_wait():
    needs = Needs([0], [NEVER], [])
    needs.add(0, None, (1,))
    needs.settle()
    assert not needs.unmet((1,), 0, 0, 0)
