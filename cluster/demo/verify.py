"""Reads everything back, through the leader and from every replica's own state, and compares.

A put that was acknowledged is *lost* if its key is absent or has another value on the leader or on
any replica. A key is *duplicated* if its version is not 1: every key was put once. Keys that
nobody wrote are *phantoms*.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from cluster.client import Client
from cluster.client_types import KeyValue, Range
from cluster.demo.writer import Acknowledged
from node.raft.types import NodeId

__all__ = ["Findings", "View", "verify"]

READ_TIMEOUT_S: Final = 60.0
EXAMPLES_MAX: Final = 5


@dataclass(frozen=True, slots=True)
class View:
    """What one source holds, compared with what was acknowledged."""

    source: str
    keys: int
    value_bytes: int
    lost: tuple[bytes, ...]
    duplicated: tuple[bytes, ...]
    phantoms: tuple[bytes, ...]
    sha256: str
    """Over all keys, values, revisions and versions in key order: equal on equal replicas."""


@dataclass(frozen=True, slots=True)
class Findings:
    """All views: the leader's first, then every replica's own."""

    views: tuple[View, ...]

    @property
    def lost(self) -> set[bytes]:
        """Acknowledged keys that are absent or different anywhere."""
        return {key for view in self.views for key in view.lost}

    @property
    def duplicated(self) -> set[bytes]:
        """Keys that were applied more than once anywhere."""
        return {key for view in self.views for key in view.duplicated}

    @property
    def phantoms(self) -> set[bytes]:
        """Keys that nobody wrote."""
        return {key for view in self.views for key in view.phantoms}

    @property
    def replicas_equal(self) -> bool:
        """Whether every source holds the same, byte for byte."""
        return len({view.sha256 for view in self.views}) == 1


def verify(
    client: Client,
    nodes: tuple[int, ...],
    acknowledged: Acknowledged,
    progress: Callable[[str], None],
) -> Findings:
    """Read all keys through the leader (linearizable) and from each node's applied state."""
    views = []
    for node in (None, *nodes):
        source = "leader" if node is None else f"n{node}"
        progress(source)
        views.append(_look(client, source, node, acknowledged))
    return Findings(tuple(views))


def _look(client: Client, source: str, node: int | None, acknowledged: Acknowledged) -> View:
    missing = dict.fromkeys(acknowledged.digests)
    damaged: list[bytes] = []
    duplicated: list[bytes] = []
    phantoms: list[bytes] = []
    whole = hashlib.sha256()
    keys = value_bytes = 0
    for item in _items(client, node):
        keys += 1
        value_bytes += len(item.value)
        digest = hashlib.sha256(item.value).digest()
        revisions = f"{item.create_revision} {item.mod_revision} {item.version}\n".encode()
        whole.update(b"%d %b " % (len(item.key), item.key) + digest + revisions)
        if item.version != 1:
            duplicated.append(item.key)
        if item.key in missing:
            del missing[item.key]
            if digest != acknowledged.digests[item.key]:
                damaged.append(item.key)
        elif acknowledged.unknown.get(item.key) != digest:
            phantoms.append(item.key)
    return View(
        source,
        keys,
        value_bytes,
        (*missing, *damaged),
        tuple(duplicated),
        tuple(phantoms),
        whole.hexdigest(),
    )


def _items(client: Client, node: int | None) -> Iterator[KeyValue]:
    start = b""
    where = None if node is None else NodeId(node)
    while True:
        page = client.range(Range(start), READ_TIMEOUT_S, node=where)
        yield from page.items
        if not page.more:
            return
        start = page.items[-1].key + b"\0"
