"""Bugs about damaged, emptied and mixed-up disks, planted by patching the product from outside.

Each is a context manager, as in `raft_bugs`. None of them shows as long as disks only lose and tear.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any
from unittest.mock import patch

from node import identity as identity_module
from node import snapshots as snapshots_module
from node.identity import recognise
from node.snapshots import SnapshotStore
from wal import SegmentIO
from wal import log as log_module
from wal import recovery as recovery_module
from wal.errors import is_no_space
from wal.operations import Operation, Write

Planted = Callable[[], AbstractContextManager[object]]


def batches_read_back_unchecked() -> AbstractContextManager[object]:
    """Whatever bytes a segment holds are served: the body's CRC is not looked at."""

    class Anything(int):
        """Equal to every CRC."""

        def __ne__(self, other: object) -> bool:
            return False

        __hash__ = int.__hash__

    return patch.object(log_module, "crc32c", lambda body: Anything())


def corruption_taken_for_a_torn_tail() -> AbstractContextManager[object]:
    """The log ends at its first damaged frame, whatever stands behind it."""
    original = recovery_module._Recovery._trace_head

    def planted(self: Any) -> Any:
        trace = original(self)
        trace.evidence = None
        return trace

    return patch.object(recovery_module._Recovery, "_trace_head", planted)


def damaged_snapshot_believed() -> AbstractContextManager[object]:
    """A snapshot is loaded chunk by chunk, and its CRCs are not looked at."""

    def planted(file: Any, path: str) -> Iterator[bytes]:
        offset = snapshots_module._HEADER.size + snapshots_module._CRC.size
        while True:
            length, _ = snapshots_module._CHUNK.unpack(file.pread(8, offset))
            if length == snapshots_module._END:
                return
            yield file.pread(length, offset + 8)
            offset += 8 + length

    return patch.object(snapshots_module, "_read_chunks", planted)


def wiped_node_begins_anew() -> AbstractContextManager[object]:
    """A node that finds nothing begins with nothing: it may vote a second time in a term."""

    def planted(directory: Any, text: bytes | None, own: Any) -> None:
        if text is not None:
            recognise(directory, text, own)

    return _together(
        patch.object(identity_module, "recognise", planted),
        patch.object(log_module, "refuse_lost", lambda found: None),
    )


def lost_log_begun_anew() -> AbstractContextManager[object]:
    """A directory without a log is a new one, though it says how often its node was started."""
    return patch.object(log_module, "refuse_lost", lambda found: None)


def identity_not_checked() -> AbstractContextManager[object]:
    """A directory is its finder's, whoever wrote it."""
    original = recovery_module.recover
    header = SnapshotStore._check_header

    def planted(fs: Any, directory: str, own: object = None) -> Any:
        return original(fs, directory)

    def unchecked(self: SnapshotStore, file: Any, path: str, group: Any) -> Any:
        own, self._identity = self._identity, _Anybody()  # type: ignore[assignment]
        try:
            return header(self, file, path, group)
        finally:
            self._identity = own

    return _together(
        patch.object(identity_module, "_compare", lambda *_: None),
        patch.object(log_module, "recover", planted),
        patch.object(SnapshotStore, "_check_header", unchecked),
    )


class _Anybody:
    """Equal to every owner."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


def short_write_counts_as_whole() -> AbstractContextManager[object]:
    """How many bytes a write has stored is not looked at."""
    original = SegmentIO.perform

    def planted(self: SegmentIO, operation: Operation) -> None:
        try:
            original(self, operation)
        except OSError as error:
            if not (isinstance(operation, Write) and is_no_space(error)):
                raise

    return patch.object(SegmentIO, "perform", planted)


def _together(*patches: AbstractContextManager[object]) -> AbstractContextManager[object]:
    planting = ExitStack()
    for each in patches:
        planting.enter_context(each)
    return planting


DAMAGE: dict[str, Planted] = {
    "batches read back unchecked": batches_read_back_unchecked,
    "corruption taken for a torn tail": corruption_taken_for_a_torn_tail,
    "damaged snapshot believed": damaged_snapshot_believed,
    "wiped node begins anew": wiped_node_begins_anew,
    "lost log begun anew": lost_log_begun_anew,
    "identity not checked": identity_not_checked,
    "short write counts as whole": short_write_counts_as_whole,
}
