"""The logs on the disks of a cluster, judged offline: each by itself, and against each other.

By itself (`wal.recover`): every frame's checksums, sequence and segment; nothing durable is missing;
each group's batches follow each other without a gap. Here, per group:

* terms never fall along a log (Raft figure 2: a leader appends behind what it has);
* a batch with the same term and base index has the same bytes on every node, and the same batch in
  front of it (Raft figure 3: log matching);
* what a node released (it was applied, so it was committed) is held by a majority, at its term
  (Raft figure 3: leader completeness; thesis §10.2.1);

and of the nodes: all are of one cluster, and no two have the same number (a swapped disk).

A cluster may be running: each log is read as it stood at one moment. What seems not to be held is
looked for a second time, since the other logs may have been read before it was. What is never
written down cannot be judged: the commit index beyond what was released.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final

from cluster.check.verdict import Finding, Verdict
from wal import BatchRef, FrameError, GroupLog, OsFilesystem, RecordHeader, Recovered, WalError
from wal.filesystem import ReadFilesystem
from wal.frame import HEADER_BYTES, PREFIX_BYTES
from wal.segment import number_of_position, offset_of_position, segment_name
from wal.survey import recovered

__all__ = ["LogPlace", "check_directory", "check_logs", "node_directories"]

_SHOWN_MAX: Final = 10
_ATTEMPTS_MAX: Final = 3
"""A running node may give a segment back between two looks at it."""
_Name = tuple[int, int]
"""(term, base index): what names a batch in its group."""


@dataclass(frozen=True, slots=True)
class LogPlace:
    """Where a node's log lies, and what the node is called."""

    name: str
    fs: ReadFilesystem
    directory: str


@dataclass(slots=True)
class _Node:
    """One node's log."""

    name: str
    log: Recovered
    headers: dict[int, dict[_Name, bytes]] = field(default_factory=dict)
    """Per group, the header of each batch; it holds the checksum of the batch's bytes."""


def node_directories(directory: Path) -> list[Path]:
    """Return the nodes' directories in a cluster's, or the directory itself if it is a node's."""
    if (directory / "wal").is_dir():
        return [directory]
    if not directory.is_dir():
        return []
    found = [path for path in directory.iterdir() if (path / "wal").is_dir()]
    return sorted(found, key=lambda path: (len(path.name), path.name))


def check_directory(directory: Path) -> list[Finding]:
    """Judge every log in a cluster's data directory, or that of one node. Raises OSError."""
    fs = OsFilesystem()
    return check_logs(
        [LogPlace(path.name, fs, str(path / "wal")) for path in node_directories(directory)]
    )


def check_logs(places: Sequence[LogPlace]) -> list[Finding]:
    """Judge the logs of all nodes of a cluster. Raises OSError.

    Memory: one `BatchRef` and one header per live batch.
    """
    nodes: list[_Node] = []
    findings: list[Finding] = []
    for place in places:
        finding = Finding(f"log of {place.name}", Verdict.PASS, "")
        findings.append(finding)
        try:
            node = _read(place)
        except WalError as error:
            finding.verdict, finding.reason = Verdict.FAIL, str(error)
            continue
        nodes.append(node)
        finding.reason = _words(node.log)
        finding.facts = {"frames": node.log.frames, "groups": len(node.log.groups)}
        for line in _falling_terms(node):
            finding.lines.append(line)
            finding.verdict, finding.reason = Verdict.FAIL, finding.lines[0]
    missing = len(findings) - len(nodes)
    if len(findings) > 1:
        findings.append(_judged("one cluster", list(_foreign(nodes)), "one cluster", missing))
        groups = sorted({group for node in nodes for group in node.log.groups})
        lines = [line for group in groups for line in _mismatches(nodes, group)]
        findings.append(_judged("log matching", lines, "equal names mean equal batches", missing))
        lines = list(_unheld(nodes, nodes, len(places)))
        if lines:
            again = [_read(place) for place in places if place.name in {n.name for n in nodes}]
            lines = list(_unheld(nodes, again, len(places)))
        findings.append(_judged("released is held", lines, "by a majority", missing))
    return findings


def _judged(name: str, lines: list[str], reason: str, missing: int) -> Finding:
    if lines:
        return Finding(name, Verdict.FAIL, lines[0], lines[:_SHOWN_MAX])
    if missing:
        return Finding(name, Verdict.UNKNOWN, f"{missing} logs cannot be read")
    return Finding(name, Verdict.PASS, reason)


def _words(log: Recovered) -> str:
    torn = f", and a torn tail of {log.torn.bytes} bytes" if log.torn else ""
    sealed = ", stopped cleanly" if log.sealed else ""
    return f"{log.frames} frames in {len(log.segments)} segments{sealed}{torn}"


def _read(place: LogPlace) -> _Node:
    """Read a log, and the header of every live batch. Raises WalError, OSError."""
    for _ in range(1, _ATTEMPTS_MAX):
        with contextlib.suppress(FileNotFoundError, FrameError):  # the last attempt raises
            return _read_once(place)
    return _read_once(place)


def _read_once(place: LogPlace) -> _Node:
    fs, directory = place.fs, place.directory
    node = _Node(place.name, recovered(fs, directory))
    by_segment: dict[int, list[tuple[int, BatchRef]]] = {}
    for group, log in node.log.groups.items():
        node.headers[group] = {}
        for batch in log.batches:
            number = number_of_position(batch.position)
            by_segment.setdefault(number, []).append((group, batch))
    for number, batches in by_segment.items():
        with closing(fs.open_read(f"{directory}/{segment_name(number)}")) as file:
            for group, batch in batches:
                offset = offset_of_position(batch.position) + PREFIX_BYTES
                header = file.pread(HEADER_BYTES, offset)
                RecordHeader.unpack(header)
                node.headers[group][batch.term, batch.base_index] = header
    return node


# ---- each rule -----------------------------------------------------------------------------------


def _falling_terms(node: _Node) -> Iterator[str]:
    for group, log in node.log.groups.items():
        before = log.released_term
        for batch in log.batches:
            if batch.term < before:
                yield (
                    f"{node.name}, group {group}: term {batch.term} at index {batch.base_index}"
                    f" stands behind term {before}"
                )
            before = batch.term


def _foreign(nodes: list[_Node]) -> Iterator[str]:
    owners: dict[int, str] = {}
    clusters: dict[bytes, str] = {}
    for node in nodes:
        identity = node.log.identity
        if identity is None:
            continue
        clusters.setdefault(identity.cluster_id, node.name)
        if len(clusters) > 1:
            yield f"{node.name} is of another cluster than {next(iter(clusters.values()))}"
        other = owners.setdefault(identity.node, node.name)
        if other != node.name:
            yield f"{node.name} and {other} are both the log of node {identity.node}"


def _mismatches(nodes: list[_Node], group: int) -> Iterator[str]:
    """Yield where equal names do not mean equal batches, or equal predecessors."""
    known: dict[_Name, tuple[str, bytes]] = {}
    before: dict[_Name, tuple[str, _Name]] = {}
    for node in nodes:
        log = node.log.groups.get(group)
        if log is None:
            continue
        for name, header in node.headers[group].items():
            other, expected = known.setdefault(name, (node.name, header))
            if header != expected:
                yield (
                    f"group {group}: the batch at index {name[1]} of term {name[0]} differs"
                    f" between {other} and {node.name}"
                )
        for first, second in pairwise(log.batches):
            name = (second.term, second.base_index)
            here = (first.term, first.base_index)
            other, there = before.setdefault(name, (node.name, here))
            if there != here:
                yield (
                    f"group {group}: the batch at index {name[1]} of term {name[0]} follows"
                    f" {_at(there)} on {other}, and {_at(here)} on {node.name}"
                )


def _at(name: _Name) -> str:
    return f"index {name[1]} of term {name[0]}"


def _unheld(nodes: list[_Node], holders: list[_Node], size: int) -> Iterator[str]:
    """Yield what was released in `nodes` and is not held in `holders` by a majority of `size`.

    A log that cannot be read may hold it.
    """
    missing = size - len(holders)
    for node in nodes:
        for group, log in node.log.groups.items():
            index, term = log.released_index, log.released_term
            if not index:
                continue
            found = [
                other.name for other in holders
                if group in other.log.groups and _holds(other.log.groups[group], index, term)
            ]  # fmt: skip
            if len(found) + missing <= size // 2:
                yield (
                    f"group {group}: {node.name} released index {index} of term {term}, which only"
                    f" {', '.join(found)} of {size} nodes hold"
                )


def _holds(log: GroupLog, index: int, term: int) -> bool:
    if log.released_index >= index:
        return True
    return any(
        batch.base_index <= index <= batch.last_index and batch.term == term
        for batch in log.batches
    )
