"""Follows the frames of a run: totals per node over all its lives, terms and leaders seen.

Counters of a node restart with each of its lives, so the newest value of every incarnation is
kept and summed; what a node counted between its last frame (10 Hz) and its death is not known and
not guessed.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from cluster.control import FrameStream
from cluster.frames import ClusterFrame
from node.metrics import WalSnapshot

__all__ = ["Collector", "NodeTotals"]

WAIT_S = 0.25


@dataclass(frozen=True, slots=True)
class NodeTotals:
    """One node's log over all its lives in this run."""

    node: int
    lives: int
    fsyncs: int
    entries: int
    bytes_written: int

    @property
    def entries_per_fsync(self) -> float | None:
        """Group commit at work; None before the first fsync."""
        return self.entries / self.fsyncs if self.fsyncs else None


class Collector:
    """A background thread on the supervisor's frame stream."""

    def __init__(self, run_dir: Path) -> None:
        """Subscribe to the cluster in `run_dir` and start collecting."""
        self._stream = FrameStream(run_dir)
        self._newest: dict[tuple[int, int], WalSnapshot] = {}
        self._leaders: dict[int, int] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="collector", daemon=True)
        self._thread.start()

    def take(self, frame: ClusterFrame) -> None:
        """Take in one frame; the stream's thread does so, and the caller with the last one."""
        with self._lock:
            for part in frame.nodes:
                snapshot = part.snapshot
                if snapshot is None:
                    continue
                self._newest[part.node, snapshot.incarnation] = snapshot.wal
                group = snapshot.group(0)
                if group is not None and group.role == "leader":
                    self._leaders[group.term] = part.node

    def leaders(self) -> dict[int, int]:
        """Return the leader of every term in which one was seen."""
        with self._lock:
            return dict(sorted(self._leaders.items()))

    def totals(self) -> list[NodeTotals]:
        """Return the sums per node."""
        with self._lock:
            lives: dict[int, list[WalSnapshot]] = {}
            for (node, _), snapshot in sorted(self._newest.items()):
                lives.setdefault(node, []).append(snapshot)
        return [
            NodeTotals(
                node,
                len(parts),
                sum(part.fsyncs for part in parts),
                sum(part.entries for part in parts),
                sum(part.bytes_written for part in parts),
            )
            for node, parts in sorted(lives.items())
        ]

    def close(self) -> None:
        """Stop collecting."""
        self._stopping.set()
        self._thread.join()
        self._stream.close()

    def _work(self) -> None:
        while not self._stopping.is_set():
            frame = self._stream.newest(WAIT_S)
            if frame is not None:
                self.take(frame)
