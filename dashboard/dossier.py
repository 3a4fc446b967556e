"""Reads what frames do not carry: a node's segment files, its threads in /proc, its last log lines.

Read-only, in a thread of its own, about twice a second and only while somebody looks. A log that
is being written is followed: the frames read before are kept, and reading goes on behind them.
"""

from __future__ import annotations

import os
from collections import deque
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from dashboard.presenter.microscope import FrameSight, WalSight
from dashboard.presenter.node_detail import Dossier, DossierThread
from wal.errors import OtherFormatError
from wal.filesystem import OsFilesystem, ReadFile
from wal.frame import Kind
from wal.reader import Frame, Stop, read_frames
from wal.recovery import segment_numbers
from wal.segment import position_at, segment_name

__all__ = ["Microscope", "read_dossier"]

FRAMES_KEPT: Final = 400
"""Frames that can be scrolled back to; 640 bytes of each are kept."""
CONTENT_BYTES: Final = 640
TAIL_BYTES: Final = 4096
LOG_BYTES: Final = 8192
LOG_LINES: Final = 8
FILES_MAX: Final = 10
_TICK_MS: Final = 1000 // os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Microscope:
    """Follows the newest segment of one node's log. One thread."""

    node: int
    data_dir: Path
    _segment: int = 0
    _offset: int = 0
    _uid: int | None = None
    _total: int = 0
    _frames: deque[FrameSight] = field(default_factory=lambda: deque(maxlen=FRAMES_KEPT))

    @property
    def directory(self) -> str:
        """The log's directory."""
        return f"{self.data_dir}/n{self.node}/wal"

    def look(self) -> WalSight:
        """Read on from where the last look ended; never raises for what a disk or a log can do."""
        filesystem = OsFilesystem()
        try:
            numbers = segment_numbers(filesystem, self.directory)
            if not numbers:
                return self._failed("there is no segment yet")
            if len(numbers) > 1 and not self._begun(filesystem, numbers[-1]):
                numbers.pop()  # prepared, and nothing is written to it yet
            if numbers[-1] != self._segment:
                self._segment, self._offset, self._uid, self._total = numbers[-1], 0, None, 0
                self._frames.clear()
            path = f"{self.directory}/{segment_name(self._segment)}"
            with closing(filesystem.open_read(path)) as file:
                return self._read(file)
        except OtherFormatError as error:
            return self._failed(str(error))
        except OSError as error:
            return self._failed(f"{self.directory}: {error.strerror}")

    def _begun(self, filesystem: OsFilesystem, number: int) -> bool:
        """Say whether the first frame of this use of a segment is there: it names its number."""
        with closing(filesystem.open_read(f"{self.directory}/{segment_name(number)}")) as file:
            first = next(read_frames(file, number, Stop()), None)
        return first is not None and first.fields[4] == number

    def _read(self, file: ReadFile) -> WalSight:
        stop = Stop(self._offset)
        for frame in read_frames(file, self._segment, stop, start=self._offset, uid=self._uid):
            self._uid = frame.uid
            self._total += 1
            self._frames.append(_sight(frame))
        self._offset = stop.offset
        tail = file.pread(TAIL_BYTES, stop.offset)
        words, torn = _tail_words(tail, stop)
        return WalSight(
            node=self.node,
            directory=self.directory,
            segment=segment_name(self._segment),
            frames=tuple(self._frames),
            end=position_at(self._segment, stop.offset),
            tail=words,
            torn=torn,
            tail_bytes=tail[:CONTENT_BYTES],
            frames_total=self._total,
        )

    def _failed(self, problem: str) -> WalSight:
        return WalSight(self.node, self.directory, "", (), 0, "", problem=problem)


def _sight(frame: Frame) -> FrameSight:
    kind, group, count, term, base_index, payload = frame.fields
    content = bytes(frame.head) + bytes(frame.body[: CONTENT_BYTES - len(frame.head)])
    return FrameSight(
        position=frame.position,
        size=(len(frame.head) + payload + 7) & ~7,
        kind=Kind(kind).name,
        group=group,
        term=term,
        index=base_index,
        count=count,
        sequence=frame.sequence,
        durable_pos=frame.durable_pos,
        content=content,
    )


def _tail_words(tail: bytes, stop: Stop) -> tuple[str, bool]:
    """Say what follows the last valid frame, and whether it looks like a torn one."""
    if not tail:
        return "the end of the file", False
    if not any(tail):
        return "zeros, prepared for the next frames", False
    if stop.ours:
        return f"TORN: a frame of this very segment that does not hold ({stop.reason})", True
    return "what an earlier use of this recycled file left", False


def read_dossier(node: int, pid: int | None, data_dir: Path) -> Dossier:
    """Return threads, files and last log lines of a node; what cannot be read is left out."""
    directory = data_dir / f"n{node}"
    return Dossier(
        node=node,
        threads=_threads(pid) if pid else (),
        files=_files(directory),
        log=_last_lines(data_dir, node),
        directory=str(directory),
    )


def _threads(pid: int) -> tuple[DossierThread, ...]:
    found = []
    try:
        tasks = sorted(Path(f"/proc/{pid}/task").iterdir(), key=lambda task: int(task.name))
        for task in tasks:
            text = (task / "stat").read_text(encoding="utf-8", errors="replace")
            name, _, rest = text.partition("(")[2].rpartition(")")
            fields = rest.split()
            ticks = int(fields[11]) + int(fields[12])
            found.append(DossierThread(name, ticks * _TICK_MS))
    except (OSError, ValueError, IndexError):
        return tuple(found)  # it ended meanwhile
    return tuple(found)


def _files(directory: Path) -> tuple[tuple[str, int], ...]:
    found = []
    for top in (directory / "wal", directory):
        try:
            entries = sorted(top.iterdir())
        except OSError:
            continue
        for entry in entries:
            try:
                if entry.is_file():
                    found.append((str(entry.relative_to(directory)), entry.stat().st_size))
            except OSError:
                continue  # given back meanwhile
    return tuple(found[:FILES_MAX])


def _last_lines(data_dir: Path, node: int) -> tuple[str, ...]:
    path = data_dir / f"n{node}" / "node.log"
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - LOG_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ()
    return tuple(text.splitlines()[-LOG_LINES:])
