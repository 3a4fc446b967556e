"""How a status answer travels: the groups as rows, and of those only what changed.

    answer    the maps of `NodeSnapshot.encode`, whose `groups` are empty, and
              rows: [[value, …], …]    in the order of `ROW_FIELDS`, the peers as rows themselves
              names: ["group", …]      that order
              token: u64               names this answer
              since: u64               rows that did not change after the answer of that token are
                                       left out; 0: none is

A node of 1,024 groups has 60 KB of rows, and most groups rest: a supervisor that asks ten times a
second says which answer it has (`status {since}`) and gets what happened since. A group that rests
as it rested before costs one comparison. Whoever names no answer gets maps, whole.

`RowTable` is the node's side, `StatusView` the supervisor's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from typing import Any, Final

from node.metrics import (
    GROUPS_MAX,
    PEERS_MAX,
    GroupSnapshot,
    NodeSnapshot,
    PeerSnapshot,
    SnapshotError,
)
from node.runtime import GroupRuntime

__all__ = ["ROW_FIELDS", "RowTable", "StatusView", "encode_status"]

ROW_FIELDS: Final = tuple(spec.name for spec in fields(GroupSnapshot))
_PEER_FIELDS: Final = tuple(spec.name for spec in fields(PeerSnapshot))
_peer_values: Final = attrgetter(*_PEER_FIELDS)
_row_values: Final = attrgetter(*ROW_FIELDS)
_NAMES_MAX: Final = 64


@dataclass(slots=True)
class _Row:
    """One group's row, when it changed, and what tells that a resting group did not."""

    values: list[Any]
    changed: int
    key: tuple[int, ...] | None


class RowTable:
    """The rows of a node's groups over its life. Main thread."""

    def __init__(
        self,
        key: Callable[[GroupRuntime], tuple[int, ...] | None],
        snapshot: Callable[[GroupRuntime, int], GroupSnapshot],
    ) -> None:
        """Take what tells of an unchanged group (None: look), and what looks."""
        self.token = 0
        self._key = key
        self._snapshot = snapshot
        self._rows: dict[int, _Row] = {}

    def look(self, groups: Iterable[GroupRuntime], now: int) -> None:
        """Look at all groups; a new token names the picture."""
        self.token += 1
        rows, key_of = self._rows, self._key
        for group in groups:
            number = group.core.config.group
            row, key = rows.get(number), key_of(group)
            if row is not None and key is not None and row.key == key:
                continue
            values = _encoded(self._snapshot(group, now))
            if row is None or row.values != values:
                rows[number] = _Row(values, self.token, key)
            else:
                row.key = key

    def changed_after(self, token: int) -> list[list[Any]]:
        """Return the rows that changed after a token of ours, in the order of the groups."""
        return [row.values for row in self._rows.values() if row.changed > token]


def _encoded(group: GroupSnapshot) -> list[Any]:
    values = list(_row_values(group))
    values[-1] = [_peer_values(peer) for peer in group.peers]
    return values


assert ROW_FIELDS[-1] == "peers", "the encoder replaces the last field"


def encode_status(own: NodeSnapshot, rows: RowTable, since: object) -> dict[str, Any]:
    """Return the answer to whoever has the answer `since`; an unknown one means everything."""
    known = since if type(since) is int and 0 < since < rows.token else 0
    return own.encode() | {
        "rows": rows.changed_after(known),
        "names": ROW_FIELDS,
        "token": rows.token,
        "since": known,
    }


class StatusView:
    """What one node's answers amount to: its newest snapshot, whole."""

    def __init__(self) -> None:
        self.token = 0
        """What to ask `since` with; 0 asks for everything."""
        self._groups: dict[int, GroupSnapshot] = {}
        self._life = (0, 0)

    def forget(self) -> None:
        """Begin anew: another life of the node."""
        self.token = 0
        self._groups = {}

    def take(self, document: object) -> NodeSnapshot | None:
        """Return the whole snapshot after an answer; None if the answer builds on another one.

        `SnapshotError` if it is malformed; the view is then as it was.
        """
        own = NodeSnapshot.decode(document)
        assert isinstance(document, Mapping), "decoded"
        if "rows" not in document:  # a node that answers in maps, whole
            return own
        token, since = _count(document, "token"), _count(document, "since")
        changed = _groups(document)
        life = (own.pid, own.incarnation)
        if since and (since > self.token or life != self._life):
            return None
        if token <= self.token and life == self._life:
            return None  # a late answer: a later one has been taken
        groups = self._groups | changed if since else changed
        if len(groups) > GROUPS_MAX:
            raise SnapshotError(f"more than {GROUPS_MAX} groups")
        self.token, self._groups, self._life = token, groups, life
        return replace(own, groups=tuple(groups.values()))


def _count(document: Mapping[str, Any], name: str) -> int:
    value = document.get(name)
    if type(value) is not int or value < 0:
        raise SnapshotError(f"{name}: {value!r:.80}")
    return value


def _groups(document: Mapping[str, Any]) -> dict[int, GroupSnapshot]:
    """Decode the rows; each is checked as strictly as a map is."""
    names, rows = document.get("names"), document["rows"]
    if not isinstance(names, list | tuple) or len(names) > _NAMES_MAX:
        raise SnapshotError("names: a short list is needed")
    if not all(isinstance(name, str) for name in names):
        raise SnapshotError("names: texts are needed")
    if not isinstance(rows, list) or len(rows) > GROUPS_MAX:
        raise SnapshotError(f"rows: a list of at most {GROUPS_MAX} is needed")
    order = tuple(names)
    found: dict[int, GroupSnapshot] = {}
    for row in rows:
        group = _fast(row) if order == ROW_FIELDS else None
        if group is None:
            group = _careful(order, row)
        found[group.group] = group
    return found


_TYPES: Final = tuple(
    {"str": str, "bool": bool, "int": int}.get(str(spec.type), list)
    for spec in fields(GroupSnapshot)
)
_LISTS: Final = tuple(at for at, kind in enumerate(_TYPES) if kind is list)


def _fast(row: object) -> GroupSnapshot | None:
    """Decode a row of our own version whose lists are empty, as most are; None: look closely."""
    if not isinstance(row, list) or tuple(map(type, row)) != _TYPES or len(row[1]) > _NAMES_MAX:
        return None
    values = list(row)
    for at in _LISTS:
        part = values[at]
        if at == _LISTS[-1]:
            if part:
                return None
        elif len(part) > _NAMES_MAX or not all(type(number) is int for number in part):
            return None
        values[at] = tuple(part)
    return GroupSnapshot(*values)


def _careful(names: tuple[Any, ...], row: object) -> GroupSnapshot:
    if not isinstance(row, list) or len(row) != len(names):
        raise SnapshotError("a row has a value for each name")
    document = dict(zip(names, row, strict=True))
    peers = document.get("peers")
    if peers is not None:
        if not isinstance(peers, list) or len(peers) > PEERS_MAX:
            raise SnapshotError(f"peers: a list of at most {PEERS_MAX} is needed")
        width = len(_PEER_FIELDS)
        if not all(isinstance(peer, list) and len(peer) == width for peer in peers):
            raise SnapshotError(f"a peer is a row of {width}")
        document["peers"] = [dict(zip(_PEER_FIELDS, peer, strict=True)) for peer in peers]
    return GroupSnapshot.decode(document)
