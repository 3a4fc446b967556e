"""What was before the dashboard came: the last minutes of the running life's recording.

It is looked through in a thread, in steps of some milliseconds, after the first frame has arrived,
so that the first picture waits for nothing. The files stay open and frames are unpacked when they
are asked for: what is held is their index (28 bytes a frame) and, for the charts, four samples a
second of the last minute and one of each second before.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from cluster.exits import CommandError, Exit
from cluster.frames import ClusterFrame, Event
from cluster.recording import Recording
from dashboard.presenter.history import Sample, sample_of

__all__ = ["NOT_RECORDED", "Past", "recall"]

FINE_MS: Final = 70_000
"""The charts show a minute."""
FINE_STEP_MS: Final = 250
COARSE_STEP_MS: Final = 1_000
BREATH_S: Final = 0.002
"""Between two samples: the screen's thread is never kept waiting longer than one takes."""
NOT_RECORDED: Final = "nothing is recorded, so time begins where this dashboard did"


class Past:
    """Recorded frames between two moments, the later one excluded. One thread at a time."""

    def __init__(self, recording: Recording, start_ms: int, end_ms: int) -> None:
        """Show a part of `recording`, which is closed with this object."""
        self.start_ms = start_ms
        self.end_ms = end_ms
        self._recording = recording

    def at(self, unix_ms: int) -> ClusterFrame | None:
        """Return the newest frame at or before a moment."""
        found = self._recording.frame_at(min(unix_ms, self.end_ms - 1))
        return found if found is not None and found.unix_ms >= self.start_ms else None

    def moments(self, start_ms: int, end_ms: int) -> Sequence[int]:
        """Return the moments of the frames after one moment up to another."""
        start_ms, end_ms = max(start_ms, self.start_ms - 1), min(end_ms, self.end_ms - 1)
        return self._recording.moments(start_ms, end_ms)

    def events(self) -> tuple[Event, ...]:
        """Return the events, oldest first."""
        return tuple(e for e in self._recording.events() if e.unix_ms >= self.start_ms)

    def samples(self) -> Iterator[Sample]:
        """Yield what the charts need, oldest first; each costs a millisecond."""
        fine_ms, last = self.end_ms - FINE_MS, 0
        for moment in self.moments(self.start_ms - 1, self.end_ms):
            step = FINE_STEP_MS if moment > fine_ms else COARSE_STEP_MS
            if moment >= last + step and (frame := self.at(moment)) is not None:
                last = moment
                yield sample_of(frame)

    def close(self) -> None:
        """Close the files."""
        self._recording.close()


def recall(
    data_dir: Path, first: ClusterFrame, window_ms: int, stopping: threading.Event
) -> Past | None:
    """Find what was recorded of the life that `first` is of, before it; None if nothing was.

    `CommandError`: what is there cannot be read.
    """
    try:
        recording = Recording(data_dir)
    except CommandError as error:
        if error.exit_code is Exit.UNKNOWN:
            return None
        raise
    try:
        while recording.header.supervisor_pid == first.supervisor_pid and recording.look():
            if stopping.is_set():
                break
        span = recording.span()
        if span is not None and span[0] < first.unix_ms:
            return Past(recording, max(span[0], first.unix_ms - window_ms), first.unix_ms)
    except BaseException:
        recording.close()
        raise
    recording.close()
    return None
