"""The newest frames of a log, and those that are added to it while it is looked at.

A frame is shown once it is whole: while its bytes arrive it does not check, and is looked at again.
What is looked at may be given back meanwhile; then the following goes on at the oldest segment left.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import closing

from wal.filesystem import ReadFilesystem
from wal.frame import Kind
from wal.reader import Stop, read_frames
from wal.recovery import segment_numbers
from wal.segment import number_of_position, offset_of_position, position_at, segment_name
from wal.survey import Sight, Snapshot, walk

__all__ = ["Follower", "newest"]


def newest(fs: ReadFilesystem, directory: str, count: int) -> list[Sight]:
    """Return the newest `count` frames of a log, damaged places included, oldest first.

    Memory: the newest segment, and what is returned. Raises OtherFormatError, OSError.
    """
    snapshot = Snapshot(fs, directory)
    numbers = segment_numbers(snapshot, directory)
    back = 1
    while numbers:
        first = numbers[-min(back, len(numbers))]
        sights = deque(walk(snapshot, directory, position_at(first, 0)), maxlen=count)
        if len(sights) == count or back >= len(numbers):
            return list(sights)
        back *= 2
    return []


class Follower:
    """Follows one log from behind a frame that is known, or from its oldest one."""

    def __init__(self, fs: ReadFilesystem, directory: str, behind: Sight | None) -> None:
        """Start behind `behind`, or at the oldest frame."""
        self.gaps = 0
        """How often segments were given back before they were seen."""
        self._fs = fs
        self._directory = directory
        self._number = 0
        self._offset = 0
        self._uid: int | None = None
        self._seen = -1
        """Position of the newest frame that was shown: the one that reading begins with."""
        if behind is not None:
            self._number = number_of_position(behind.position)
            self._offset = offset_of_position(behind.position)
            self._seen = behind.position

    def added(self) -> Iterator[Sight]:
        """Yield what became whole since the last call. Raises OtherFormatError, OSError."""
        while True:
            numbers = segment_numbers(self._fs, self._directory)
            if not numbers:
                return
            if self._number < numbers[0]:
                self.gaps += self._number > 0
                self._enter(numbers[0])
            yield from self._segment()
            if not self._begun(self._number + 1):
                return
            yield from self._segment()  # what came between the last look and the next segment
            self._enter(self._number + 1)

    def _enter(self, number: int) -> None:
        self._number, self._offset, self._uid = number, 0, None

    def _segment(self) -> Iterator[Sight]:
        path = f"{self._directory}/{segment_name(self._number)}"
        try:
            file = self._fs.open_read(path)
        except FileNotFoundError:
            return
        with closing(file):
            if not self._offset and not self._begun(self._number):
                return
            frames = read_frames(file, self._number, Stop(), start=self._offset, uid=self._uid)
            for frame in frames:
                self._offset, self._uid = offset_of_position(frame.position), frame.uid
                if frame.position > self._seen:
                    self._seen = frame.position
                    yield Sight(frame.position, frame.header, frame.sequence, None, False)

    def _begun(self, number: int) -> bool:
        """Tell whether a segment's file begins with its own checkpoint: not an earlier use's."""
        try:
            file = self._fs.open_read(f"{self._directory}/{segment_name(number)}")
        except FileNotFoundError:
            return False
        with closing(file):
            frame = next(read_frames(file, number, Stop()), None)
        return frame is not None and (frame.fields[0], frame.fields[4]) == (Kind.CHECKPOINT, number)
