"""A log on an ext4 image behind a loop device, photographed while it is written.

    unshare --mount python -m tests.process.looped_log record PLACE [--unsynced]
    unshare --mount python -m tests.process.looped_log judge PLACE

`record` mounts PLACE/image, lives several lives of a log on it, and copies the image before and behind
operations of the log's disk: what the device holds at that moment, while the page cache of the
mounted file system holds more. That is what a power cut leaves. `judge` mounts each copy, so that ext4
replays its journal, and opens the log in it; then once more, behind appends. One line of JSON each.

Both run in a mount namespace of their own: with the process go its mounts, with these the loop devices.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.wal.support import batch, open_log, spans
from wal import CorruptLogError, Log, OsFilesystem, Recovered
from wal.faultfs import FaultFilesystem
from wal.faults import DiskOperation, Fault, FaultBoard
from wal.filesystem import _OsFile

LIVES = 6
PICTURES_OF_A_POINT = 2
STILL_S_MAX = 30.0


@dataclass
class Owed:
    """What the log owes its user at one moment: indexes of group 0."""

    acked: int = 0
    given: int = 0
    released: int = 0
    """Acknowledged; the highest that was asked for is `releasing`."""
    releasing: int = 0


@dataclass(frozen=True)
class Picture:
    """A copy of the device, and what the log in it owed then."""

    name: str
    point: str
    owed: Owed


class UnsyncedFile(_OsFile):
    """A file whose syncs do nothing."""

    def datasync(self) -> None: ...
    def sync(self) -> None: ...


class UnsyncedFilesystem(OsFilesystem):
    """The real one, without a sync: the control."""

    def _opened(self, path: str, flags: int) -> _OsFile:
        return UnsyncedFile(os.open(path, flags, 0o600), self.calls)

    def sync_dir(self, path: str) -> None: ...


class Camera(FaultBoard):
    """Stands where faults bite, and takes pictures instead: some of each point."""

    def __init__(self, place: Path, owed: Owed, device: str) -> None:
        super().__init__(time.monotonic_ns, lambda text: None)
        self.set(Fault("at", 1 << 40, point="nowhere"))  # so that it is asked at all
        self._place = place
        self._owed = owed
        self._device = device
        self._met: Counter[str] = Counter()
        self._rng = random.Random(7)
        self._wanted: dict[str, set[int]] = {}
        self._taken = 0

    def before(self, operation: DiskOperation, path: str) -> None:
        self._meet(f"{operation}.before")

    def after(self, operation: DiskOperation, path: str) -> None:
        self._meet(f"{operation}.after")

    def _meet(self, point: str) -> None:
        span = range(1, 40 if point.startswith(("write", "sync")) else 3)
        wanted = self._wanted.setdefault(point, set(self._rng.sample(span, PICTURES_OF_A_POINT)))
        self._met[point] += 1
        if self._met[point] in wanted:
            self._take(point)

    def _take(self, point: str) -> None:
        """Copy the image; only a copy during which the device wrote nothing is one moment."""
        self._taken += 1
        picture = Picture(f"{self._taken:02d}.img", point, self._owed)
        deadline = time.monotonic() + STILL_S_MAX
        while True:
            was = written(self._device)
            image, copy = self._place / "image", self._place / picture.name
            subprocess.run(["cp", "--sparse=always", image, copy], check=True)
            if written(self._device) == was:
                break
            assert time.monotonic() < deadline, "the device never rests"
        print(json.dumps(asdict(picture)), flush=True)


def written(device: str) -> tuple[str, str]:
    """Return how many writes a block device has completed, and how many are in flight."""
    fields = Path(f"/sys/block/{Path(device).name}/stat").read_text().split()
    return fields[4], fields[8]


@contextmanager
def mounted(image: Path, where: Path) -> Iterator[str]:
    """Mount an image; yield its loop device. Nothing is committed by the clock, only by syncs."""
    where.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop,commit=900", image, where], check=True)
    try:
        table = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
        yield next(device for device, path, *_ in table if path == str(where))
    finally:
        subprocess.run(["umount", where], check=True)


def record(place: Path, *, unsynced: bool) -> None:
    """Live on the image, and photograph it."""
    owed = Owed()
    with mounted(place / "image", place / "disk") as device:
        disk = UnsyncedFilesystem() if unsynced else OsFilesystem()
        fs = FaultFilesystem(disk, Camera(place, owed, device))
        for life in range(LIVES):
            log, _ = open_log(fs, place / "disk" / "wal")
            live(log, owed, 14)
            if life % 2:
                assert log.seal_and_close()
            else:
                log.abort()


def live(log: Log, owed: Owed, appends: int) -> None:
    """Append, each acknowledged before the next; give back what is older than ten indexes."""
    for _ in range(appends):
        owed.given += 1
        handle = log.append([batch(owed.given, size=3_000 + owed.given * 611 % 7_000)])
        assert handle.durable
        owed.acked = owed.given
        if owed.acked % 7 == 0:
            owed.releasing = owed.acked - 10
            log.release(0, max(0, owed.releasing), 1)
            owed.released = max(owed.released, owed.releasing)


def judge(place: Path) -> None:
    """Say of each picture what the log in it holds, and holds after appends and a restart."""
    for image in sorted(place.glob("??.img")):
        verdict: dict[str, object] = {"name": image.name, "replays": needs_replay(image)}
        try:
            with mounted(image, place / "after"):
                log, found = open_log(directory=place / "after" / "wal")
                verdict["first"], verdict["last"] = held(log, found)
                live(log, Owed(acked=(last := held(log, found)[1]), given=last), 5)
                log.abort()
            with mounted(image, place / "after"):
                log, found = open_log(directory=place / "after" / "wal")
                verdict["last_then"] = held(log, found)[1]
                log.abort()
        except (CorruptLogError, AssertionError) as error:
            verdict["refused"] = str(error)
        print(json.dumps(verdict), flush=True)


def held(log: Log, found: Recovered) -> tuple[int, int]:
    """Return the first index that is still held, and the last; each batch is read back in full."""
    group = found.groups.get(0)
    if group is None:
        return 1, 0
    first = group.released_index + 1
    last = group.last_index
    assert spans(found) == [(1, index, index) for index in range(first, last + 1)]
    for ref in group.batches:
        index = ref.base_index
        assert log.read(0, ref) == batch(index, size=3_000 + index * 611 % 7_000)
    return first, last


def needs_replay(image: Path) -> bool:
    """Tell by its superblock whether a file system was mounted when the picture was taken."""
    with image.open("rb") as file:
        file.seek(1024 + 0x60)
        return bool(int.from_bytes(file.read(4), "little") & 0x4)


if __name__ == "__main__":
    verb, where, *options = sys.argv[1:]
    if verb == "record":
        record(Path(where), unsynced="--unsynced" in options)
    else:
        judge(Path(where))
