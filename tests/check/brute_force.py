"""The slow oracle: every order that respects real time is tried. For a dozen operations at most."""

from itertools import chain, combinations

from cluster.check.history import Status
from cluster.check.models import ILLEGAL


def is_linearizable(operations, model):
    """Follow the definition (Herlihy and Wing 1990): some completion has a legal sequential order.

    Written without a thought for speed, and without anything of `cluster.check.wgl`.
    """
    known = [(op, a) for op in operations if (a := model.action(op)) is not None]
    sure = [pair for pair in known if pair[0].status is Status.OK]
    maybe = [pair for pair in known if pair[0].status is Status.INFO]
    subsets = chain.from_iterable(combinations(maybe, n) for n in range(len(maybe) + 1))
    object_ = model(operations)
    return any(_has_order(object_, object_.initial, [*sure, *some]) for some in subsets)


def explains(operations, model):
    """Tell whether the positions can be kept: some order has the placed ones as they stand, the rest anywhere."""
    object_ = model(operations)
    known = [(op, a) for op in operations if (a := model.action(op)) is not None]
    placed = [pair for pair in known if pair[0].position is not None]
    placed.sort(key=lambda pair: (pair[0].position, object_.looks(pair[1]), pair[0].call))
    maybe = [pair for pair in known if pair[0].position is None]
    return _extends(object_, object_.initial, placed, maybe)


def _extends(model, state, placed, maybe):
    if not placed:
        return True
    for pair in (placed[0], *maybe):
        after = model.step(state, pair[1])
        rest = placed[1:] if pair is placed[0] else placed
        others = maybe if pair is placed[0] else [other for other in maybe if other is not pair]
        in_time = all(op.ret > pair[0].call for op, _ in rest)
        if in_time and after is not ILLEGAL and _extends(model, after, rest, others):
            return True
    return False


def _has_order(model, state, left):
    if not left:
        return True
    for number, (op, action) in enumerate(left):
        if any(other.ret < op.call for other, _ in left):
            continue
        after = model.step(state, action)
        if after is not ILLEGAL and _has_order(model, after, left[:number] + left[number + 1 :]):
            return True
    return False
