"""The indexes that a record may have where it stands: what `submit` checks before it queues one.

A record that a recovery would refuse is a bug of the caller, so these are assertions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from wal.frame import Fields, Kind

__all__ = ["Bounds", "bounds_after", "bounds_of_copy"]

_BATCH: Final = int(Kind.BATCH)
_TRUNCATE: Final = int(Kind.TRUNCATE)

Bounds = Callable[[Fields, int, int], tuple[int, int]]
"""(released index, next index) of a group behind a record, from those before it."""


def bounds_after(fields: Fields, released: int, following: int) -> tuple[int, int]:
    """Return (released index, next index) of a group behind a record; AssertionError for a bug."""
    kind, group, count, _, index, _ = fields
    if kind == _BATCH:
        assert count, f"group {group}: a batch without entries"
        assert index == following, f"group {group}: a batch at {index}, not at {following}"
        return released, index + count
    if kind == _TRUNCATE:
        expected = f"between {released + 1} and {following}"
        assert released < index <= following, f"group {group}: a cut at {index}, not {expected}"
        return released, index
    return max(released, index), max(following, index + 1)


def bounds_of_copy(fields: Fields, released: int, following: int) -> tuple[int, int]:
    """Check that a record can be the copy of a live batch: it moves no bound."""
    kind, group, count, _, index, _ = fields
    assert kind == _BATCH, "only batches are appended again"
    assert released < index < index + count <= following, f"group {group}: no copy of {index}"
    return released, following
