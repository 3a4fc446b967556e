"""A range over all groups: one part per group, merged in key order."""

from __future__ import annotations

from operator import attrgetter
from typing import Final

from cluster.client_types import (
    ClientError,
    Completion,
    KeyValue,
    Range,
    RangeResult,
    Result,
    Ticket,
)
from node.raft.types import GroupId

__all__ = ["Gather"]

_by_key: Final = attrgetter("key")


class Gather:
    """Collects the parts of one fanned-out range."""

    __slots__ = ("_done", "_groups", "_parts", "_query", "_ticket")

    def __init__(self, ticket: Ticket, query: Range, groups: int) -> None:
        self._ticket = ticket
        self._query = query
        self._groups = groups
        self._parts: dict[GroupId, RangeResult] = {}
        self._done = False

    def add(
        self, group: GroupId, result: Result | None, error: ClientError | None
    ) -> Completion | None:
        """Take one group's part; return the completion with the last part or the first error."""
        if self._done:
            return None
        if error is not None:
            self._done = True
            return Completion(self._ticket, None, error)
        assert isinstance(result, RangeResult)
        self._parts[group] = result
        if len(self._parts) < self._groups:
            return None
        self._done = True
        return Completion(self._ticket, self._merge())

    def _merge(self) -> RangeResult:
        """Merge up to the first key behind which some group has items that it did not send."""
        parts = [self._parts[group] for group in sorted(self._parts)]
        items: list[KeyValue] = sorted((i for part in parts for i in part.items), key=_by_key)
        cuts = [part.items[-1].key for part in parts if part.more and part.items]
        more = any(part.more for part in parts)
        if cuts:
            items = [item for item in items if item.key <= min(cuts)]
        limit = self._query.limit
        if limit and len(items) > limit:
            items, more = items[:limit], True
        revisions = tuple(part.revisions[0] for part in parts)
        return RangeResult(revisions, tuple(items), more)
