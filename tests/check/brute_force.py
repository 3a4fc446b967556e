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
