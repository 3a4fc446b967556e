"""The faults of a node's disk: their vocabulary, and who applies it.

A fault travels as a map, the arguments of the admin verb `fault` (and of `act` on the supervisor's
control socket): `kind`, and what `FIELDS` says belongs to it. `decode_fault` checks every word of
it, on both sides; nothing unknown is ignored.

    slow stall fail full short at    stand in `wal.faults` until their time is over
    heal show                        end them; tell how they stand and how often they bit
    flip                             turns over one bit of a segment at rest
    powercut torn                    end the process: see `wal.writeback`

Main thread, but for what the log's threads meet.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, get_args

from node.config import NodeConfig
from node.console import say
from wal import Log
from wal.errors import position_text
from wal.faultfs import FaultFilesystem, flip_bit
from wal.faults import OPERATIONS, POINTS, Deed, Fault, FaultBoard, FaultReport, drawn
from wal.filesystem import TunableFilesystem
from wal.segment import segment_name
from wal.writeback import WriteBackFilesystem

__all__ = [
    "FIELDS",
    "FOR_MS",
    "NEEDS_POWER_LOSS",
    "DiskFaults",
    "DiskState",
    "FaultError",
    "FaultRequest",
    "decode_fault",
]

FOR_MS: Final = 10_000
"""How long a fault stands if nobody says."""
FOR_MS_MAX: Final = 3_600_000
DELAY_MS: Final = 100
DELAY_MS_MAX: Final = 60_000
_SEGMENT_MAX: Final = 1 << 31
_U32: Final = (1 << 32) - 1

_STANDING: Final = ("slow", "stall", "fail", "full", "short", "at")
NEEDS_POWER_LOSS: Final = frozenset({"powercut", "torn"})
"""Kinds that only a node in power-loss mode can do."""

FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "slow": ("for_ms", "on", "delay_ms", "times", "odds", "seed"),
    "stall": ("for_ms", "on"),
    "fail": ("for_ms", "on", "times", "odds", "seed"),
    "full": ("for_ms", "quota"),
    "short": ("for_ms", "times", "odds", "seed"),
    "at": ("for_ms", "point", "deed", "times"),
    "flip": ("segment", "offset", "bit", "seed"),
    "torn": ("seed",),
    "powercut": (),
    "heal": (),
    "show": (),
}
"""What belongs to a kind."""

_NUMBERS: Final[Mapping[str, tuple[int, int]]] = {
    "for_ms": (1, FOR_MS_MAX),
    "delay_ms": (1, DELAY_MS_MAX),
    "times": (0, 1_000_000),
    "odds": (1, 100),
    "quota": (0, 1 << 40),
    "seed": (0, (1 << 63) - 1),
    "segment": (1, _U32),
    "offset": (0, _SEGMENT_MAX),
    "bit": (0, 7),
}
"""Lowest and highest value."""

_WORDS: Final[Mapping[str, tuple[str, ...]]] = {
    "on": OPERATIONS,
    "point": POINTS,
    "deed": get_args(Deed),
}


class FaultError(ValueError):
    """A fault that makes no sense, or that this node cannot do; the text says why."""


@dataclass(frozen=True, slots=True)
class FaultRequest:
    """One decoded request; `values` holds what was given, and nothing else."""

    kind: str
    values: Mapping[str, int | str]

    def number(self, name: str, default: int) -> int:
        """Return a number that was given, or the default."""
        return int(self.values.get(name, default))

    def standing(self) -> Fault:
        """Return the fault that is to stand. What has no duration of its own bites once."""
        kind: Any = self.kind
        once = kind in ("fail", "short", "at") and not self.values.keys() & {"for_ms", "odds"}
        words: dict[str, Any] = {n: self.values[n] for n in _WORDS if n in self.values}
        return Fault(
            kind,
            self.number("for_ms", FOR_MS),
            times=self.number("times", int(once)),
            delay_ms=self.number("delay_ms", DELAY_MS),
            quota=self.number("quota", 0),
            odds=self.number("odds", 100),
            seed=self.number("seed", 0),
            **words,
        )


def decode_fault(args: Mapping[str, Any]) -> FaultRequest:
    """Decode and check a request; `FaultError` for anything else."""
    kind = args.get("kind")
    if not isinstance(kind, str) or kind not in FIELDS:
        raise FaultError(f"no disk fault {kind!r:.40}; known are: {', '.join(FIELDS)}")
    allowed = FIELDS[kind]
    values: dict[str, int | str] = {}
    for name, value in args.items():
        if name == "kind":
            continue
        if name not in allowed:
            known = ", ".join(allowed) or "nothing"
            raise FaultError(f"disk {kind} takes no {name[:40]!r}; it takes: {known}")
        values[name] = _checked(name, value)
    if kind == "at" and not {"point", "deed"} <= values.keys():
        raise FaultError("disk at needs a point and what happens there: kill, error or stall")
    return FaultRequest(kind, values)


def _checked(name: str, value: object) -> int | str:
    if name in _WORDS:
        if not isinstance(value, str) or value not in _WORDS[name]:
            raise FaultError(f"{name}: no {value!r:.60}; valid are: {', '.join(_WORDS[name])}")
        return value
    low, high = _NUMBERS[name]
    if type(value) is not int or not low <= value <= high:
        raise FaultError(f"{name}: {value!r:.40} is not a whole number from {low} to {high}")
    return value


@dataclass(frozen=True, slots=True)
class DiskState:
    """What a status tells of the faults of a disk."""

    standing: int = 0
    bites: int = 0
    bit_ns: int = -1
    """When one last bit (monotonic); -1: never."""
    unsynced: int = 0
    """Bytes that a power cut would take; 0 without power-loss mode."""


class DiskFaults:
    """The disk of one node: the file system that everything durable goes through, and its faults."""

    def __init__(self, config: NodeConfig, disk: TunableFilesystem) -> None:
        """Stand in front of `disk`; in power-loss mode keep back what is not synced."""
        self._config = config
        self._disk = disk
        self._cache = WriteBackFilesystem(disk) if config.power_loss else None
        self._board = FaultBoard(time.monotonic_ns, _end, lambda text: say(f"disk fault: {text}"))
        self.filesystem = FaultFilesystem(self._cache or disk, self._board)

    def state(self) -> DiskState:
        """Return what a status tells."""
        return DiskState(
            self._board.standing,
            self._board.bites,
            self._board.bit_ns,
            0 if self._cache is None else self._cache.unsynced.size,
        )

    def apply(self, args: Mapping[str, Any], log: Log) -> dict[str, Any]:
        """Do what a request asks; return lines for a person, and every fault as it stands.

        Raises FaultError. A power cut does not return.
        """
        request = decode_fault(args)
        if request.kind in NEEDS_POWER_LOSS and self._cache is None:
            raise FaultError(
                f"disk {request.kind} needs power-loss mode, in which a node keeps in memory what"
                " it has not synced; start the cluster with: raftdeck up --power-loss"
            )
        match request.kind:
            case "heal":
                lines = [_report_line(each) for each in self._board.heal()] or ["nothing to heal"]
            case "show":
                lines = [_report_line(each) for each in self._board.reports()]
            case "flip":
                lines = [self._flip(request, log)]
            case "torn" | "powercut":
                lines = [self._cut(request)]
            case _:
                lines = [self._set(request.standing())]
        return {"lines": lines, "faults": [_encoded(each) for each in self._board.reports()]}

    def _set(self, fault: Fault) -> str:
        try:
            self._board.set(fault)
        except ValueError as error:
            raise FaultError(str(error)) from None
        say(f"disk fault: {fault.kind}: {fault}")
        return str(fault)

    def _cut(self, request: FaultRequest) -> str:
        """End this process as a power cut would."""
        assert self._cache is not None, "checked"
        lost = self._cache.unsynced
        text = (
            f"power cut: {lost.size:,} unsynced bytes in {lost.writes} writes and {lost.names}"
            " changes of names were in memory"
        )
        if request.kind == "torn":
            text += f"; torn: {self._cache.tear(request.number('seed', 0))}"
        _end(text)
        return text

    def _flip(self, request: FaultRequest, log: Log) -> str:
        """Turn over a bit of what is durable, drawn unless it is named."""
        stats, seed = log.stats(), request.number("seed", 0)
        segment = request.number("segment", stats.durable >> 32)
        end = stats.durable & _U32 if segment == stats.durable >> 32 else log.segment_bytes
        if not segment or not end:
            raise FaultError("disk flip: nothing of the log is durable yet")
        offset = request.number("offset", drawn(seed, "offset") % end)
        bit = request.number("bit", drawn(seed, "bit") % 8)
        path = str(self._config.wal_dir / segment_name(segment))
        try:
            flip = flip_bit(self._disk, path, offset, bit)
        except (OSError, ValueError) as error:
            raise FaultError(f"disk flip: {path}, byte {offset}: {error}") from None
        text = (
            f"bit {bit} of {position_text(segment << 32 | offset)} turned over:"
            f" {flip.before:02x} is now {flip.after:02x}"
        )
        say(f"disk fault: flip: {text}")
        return text


def _end(text: str) -> None:
    """Write the last line of this process, and kill it."""
    say(f"disk fault: {text}")
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()  # the signal may be delivered to another thread first


def _report_line(report: FaultReport) -> str:
    times = "1 time" if report.bites == 1 else f"{report.bites:,} times"
    bit = f"bit {times}, last at the {report.where}" if report.bites else "never bit"
    stands = f"{report.left_ms / 1000:.1f} s left" if report.left_ms else "over"
    return f"{report.fault.kind}: {report.fault}: {bit} ({stands})"


def _encoded(report: FaultReport) -> dict[str, Any]:
    return {
        "kind": report.fault.kind,
        "text": str(report.fault),
        "bites": report.bites,
        "bit_ago_ms": report.bit_ago_ms,
        "left_ms": report.left_ms,
        "where": report.where,
    }
