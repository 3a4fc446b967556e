"""What is wrong with a disk on purpose: which fault bites at which operation, and for how long.

A `FaultBoard` holds the faults of one node's disk. `wal.faultfs` asks it before and after every
operation, but only while `armed`; nothing else of the write path knows of it. A fault ends when its
time is over, when it has bitten as often as it may, or when it is healed, whichever comes first: on
this side, so that whoever set it may be gone. What bit, how often and when is kept: a fault that
never bit has proved nothing.

**Points.** Each operation of each directory has two names, `wal.sync.before`, `snap.rename.after`
(`POINTS`): there the process can be killed, an error returned, or the caller made to wait.

Draws are hashes of a seed and counters (`drawn`): no draw depends on another one.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, Literal, get_args

__all__ = [
    "FAULTS_MAX",
    "OPERATIONS",
    "POINTS",
    "Deed",
    "DiskOperation",
    "Fault",
    "FaultBoard",
    "FaultKind",
    "FaultReport",
    "drawn",
]

DiskOperation = Literal["create", "write", "sync", "truncate", "rename", "unlink", "dir-sync"]
OPERATIONS: Final[tuple[DiskOperation, ...]] = get_args(DiskOperation)
"""What changes a disk. Zeros written ahead and reserved blocks are writes."""

FaultKind = Literal["slow", "stall", "fail", "full", "short", "at"]
"""slow: the operation takes longer. stall: it waits for the end of the fault. fail: EIO. full: what
grows a file beyond a quota gets ENOSPC. short: a write stores a drawn part, then gets ENOSPC. at:
something happens at a named point."""

Deed = Literal["kill", "error", "stall"]
"""What happens at a point."""

POINTS: Final = tuple(
    f"{directory}.{operation}.{moment}"
    for directory in ("wal", "snap")
    for operation in OPERATIONS
    for moment in ("before", "after")
)

FAULTS_MAX: Final = 16
"""Faults that stand at once on one disk."""
REPORTS_MAX: Final = 32
"""Faults that are over and still reported, newest last."""
_NS_PER_MS: Final = 1_000_000
_BLOCK: Final = 4096


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. Times in ms, sizes in bytes; what a kind does not name it ignores."""

    kind: FaultKind
    for_ms: int
    """How long it stands."""
    on: DiskOperation = "sync"
    """slow, stall, fail: the operation."""
    times: int = 0
    """How often it bites at most; 0: no limit."""
    delay_ms: int = 0
    """slow: how much longer."""
    quota: int = 0
    """full: bytes by which files may still grow."""
    odds: int = 100
    """Percent of the operations that it bites, drawn by `seed`."""
    seed: int = 0
    point: str = ""
    deed: Deed = "error"

    def __str__(self) -> str:
        """Return one line for a person."""
        match self.kind:
            case "slow":
                what = f"every {self.on} takes {self.delay_ms} ms longer"
            case "stall":
                what = f"every {self.on} waits"
            case "fail":
                what = f"{self.on} fails with EIO"
            case "full":
                what = f"files may grow by {self.quota:,} bytes"
            case "short":
                what = "writes end half-way with ENOSPC"
            case _:
                what = f"{self.deed} at {self.point}"
        often = f", {self.times} times" if self.times > 1 else ", once" if self.times else ""
        share = f", {self.odds} % of them" if self.odds < 100 else ""
        return f"{what}{share}{often}, for {self.for_ms / 1000:g} s"


@dataclass(frozen=True, slots=True)
class FaultReport:
    """How a fault stands: the proof that it took effect, or that it did not."""

    fault: Fault
    bites: int
    bit_ago_ms: int
    """Since it last bit; -1: never."""
    left_ms: int
    """0: it is over."""
    where: str
    """Operation and file of the last bite."""


@dataclass(slots=True)
class _Standing:
    """A fault, and what it has done."""

    fault: Fault
    until_ns: int
    left: int
    """full: bytes by which files may still grow."""
    met: int = 0
    """Operations that it could have bitten."""
    bites: int = 0
    bit_ns: int = -1
    where: str = ""
    over: bool = False
    healed: bool = False

    @property
    def waits(self) -> bool:
        """Whether who meets it waits for its end."""
        return self.fault.kind == "stall" or self.fault.deed == "stall"


def drawn(seed: int, *place: int | str) -> int:
    """Return a number below 2^64 that depends on the seed and on what it is drawn for, only."""
    text = ":".join(map(str, (seed, *place)))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


class FaultBoard:
    """The faults of one disk. Any thread; waiting threads hold no lock."""

    def __init__(
        self,
        clock: Callable[[], int],
        end: Callable[[str], None],
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`clock` is monotonic ns; `end` kills the process; `tell` hears of a first bite."""
        self.armed = False
        """Whether any fault may stand. Read without the lock, before every operation."""
        self.bites = 0
        """Of all faults, ever."""
        self.bit_ns = -1
        """When one last bit, by the clock; -1: never."""
        self._clock = clock
        self._end = end
        self._tell = tell
        self._changed = threading.Condition()
        self._standing: list[_Standing] = []
        self._over: deque[_Standing] = deque(maxlen=REPORTS_MAX)

    # ---- setting and looking ---------------------------------------------------------------

    def set(self, fault: Fault) -> None:
        """Let a fault stand from now on; ValueError if there are too many already."""
        with self._changed:
            self._sweep()
            if len(self._standing) >= FAULTS_MAX:
                raise ValueError(f"{FAULTS_MAX} disk faults stand already; heal them first")
            until = self._clock() + fault.for_ms * _NS_PER_MS
            self._standing.append(_Standing(fault, until, fault.quota))
            self.armed = True

    def heal(self) -> list[FaultReport]:
        """End every fault; return how those that stood did."""
        with self._changed:
            self._sweep()
            healed = list(self._standing)
            for each in healed:
                each.over = each.healed = True
            self._sweep()
            self._changed.notify_all()
            return [self._report(each) for each in healed]

    def reports(self) -> list[FaultReport]:
        """Return the faults that are over, then those that stand."""
        with self._changed:
            self._sweep()
            return [self._report(each) for each in (*self._over, *self._standing)]

    @property
    def standing(self) -> int:
        """How many faults stand."""
        if not self.armed:
            return 0
        with self._changed:
            self._sweep()
            return len(self._standing)

    # ---- biting ----------------------------------------------------------------------------

    def before(self, operation: DiskOperation, path: str) -> None:
        """Meet what stands before an operation: it may wait, raise OSError, or not return."""
        self._at_point(operation, path, "before")
        for each in self._matching(operation):
            if not self._bite(each, operation, path):
                continue
            if each.fault.kind == "slow":
                self._wait(each, self._clock() + each.fault.delay_ms * _NS_PER_MS)
            elif each.fault.kind == "stall":
                self._wait(each, each.until_ns)
            else:
                raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    def after(self, operation: DiskOperation, path: str) -> None:
        """Meet what stands behind an operation that is done."""
        self._at_point(operation, path, "after")

    def room(self, path: str, size: int, growth: int) -> int:
        """Return how many bytes of a write of `size` find room, if it grows the file by `growth`.

        Fewer than `size`: so many are stored, and then the write fails with ENOSPC.
        """
        with self._changed:
            self._sweep()
            shorts = [each for each in self._standing if each.fault.kind == "short"]
            fulls = [each for each in self._standing if each.fault.kind == "full"]
        for each in fulls:
            if growth > each.left and self._bite(each, "write", path):
                stored = max(0, size - (growth - each.left)) & -_BLOCK
                with self._changed:
                    each.left -= max(0, stored - (size - growth))
                return stored
        for each in shorts:
            if size and self._bite(each, "write", path):
                return drawn(each.fault.seed, "short", each.met) % size & -_BLOCK
        with self._changed:
            for each in fulls:
                each.left -= growth
        return size

    def refuses_files(self, path: str) -> bool:
        """Tell whether a full disk has no room for another file."""
        with self._changed:
            self._sweep()
            fulls = [e for e in self._standing if e.fault.kind == "full" and e.left <= 0]
        return any(self._bite(each, "create", path) for each in fulls)

    def freed(self, size: int) -> None:
        """Take note of space that returned."""
        with self._changed:
            for each in self._standing:
                each.left += size

    def _at_point(self, operation: DiskOperation, path: str, moment: str) -> None:
        directory = path if operation == "dir-sync" else path.rpartition("/")[0]
        point = f"{directory.rpartition('/')[2]}.{operation}.{moment}"
        with self._changed:
            self._sweep()
            found = [each for each in self._standing if each.fault.point == point]
        for each in found:
            if not self._bite(each, operation, path):
                continue
            if each.fault.deed == "kill":
                self._end(f"killed at {point} ({path})")
            if each.fault.deed == "stall":
                self._wait(each, each.until_ns)
            else:
                raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    def _matching(self, operation: DiskOperation) -> list[_Standing]:
        with self._changed:
            self._sweep()
            return [
                each
                for each in self._standing
                if each.fault.kind in ("slow", "stall", "fail") and each.fault.on == operation
            ]

    def _bite(self, each: _Standing, operation: DiskOperation, path: str) -> bool:
        """Tell whether a fault bites here, and count it."""
        fault = each.fault
        with self._changed:
            if each.over:
                return False
            each.met += 1
            if fault.odds < 100 and drawn(fault.seed, fault.kind, each.met) % 100 >= fault.odds:
                return False
            each.bites += 1
            each.bit_ns = self.bit_ns = self._clock()
            each.where = f"{operation} of {path.rsplit('/', 1)[-1]}"
            self.bites += 1
            each.over = 0 < fault.times <= each.bites and not each.waits
            first = each.bites == 1
        if first:
            self._tell(f"{fault.kind}: {fault}; it bites at the {each.where}")
        return True

    def _wait(self, each: _Standing, until_ns: int) -> None:
        """Wait until a moment, or the end of the fault."""
        with self._changed:
            while not each.healed and (left := until_ns - self._clock()) > 0:
                self._changed.wait(left / 1e9)

    def _sweep(self) -> None:
        """Set aside what is over; the lock is held."""
        if not self.armed:
            return
        now = self._clock()
        for each in self._standing:
            each.over = each.over or now >= each.until_ns
        self._over.extend(each for each in self._standing if each.over)
        self._standing = [each for each in self._standing if not each.over]
        self.armed = bool(self._standing)

    def _report(self, each: _Standing) -> FaultReport:
        now = self._clock()
        ago = -1 if each.bit_ns < 0 else (now - each.bit_ns) // _NS_PER_MS
        left = 0 if each.over else max(0, each.until_ns - now) // _NS_PER_MS
        return FaultReport(each.fault, each.bites, ago, left, each.where)
