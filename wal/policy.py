"""How a log uses its disk: every optimisation is one field of `SyncPolicy`. Sizes in bytes.

What each costs and buys is measured by `raftdeck bench wal` and told in docs/wal.md. `PRESETS` names
sets of fields, `TUNING` is the parameter table of seed 3's tuning guide, `policy_of_text` reads what
a person wrote (`low_latency,io=direct`), and `settle` replaces what a file system cannot do.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from typing import Final, Literal, get_args

__all__ = [
    "CAPABILITIES",
    "PRESETS",
    "TUNING",
    "Capability",
    "Commit",
    "DriverName",
    "Io",
    "Missing",
    "PageCache",
    "Prepare",
    "SyncCall",
    "SyncPolicy",
    "needs",
    "policy_of_text",
    "settle",
]

Prepare = Literal["recycle", "zero_fill", "fallocate", "append"]
"""How the blocks under the head come to be.

recycle: released segments are renamed and overwritten, new ones zero-filled ahead of the head;
zero_fill: the same without reuse; fallocate: reserved as unwritten extents, in the same steps;
append: as written.
"""

Commit = Literal["group", "record", "buffered"]
"""What one write and one sync hold, and what an append is told by them.

group: everything that gathered (see `gather_us`; 0: meanwhile, natural batching). An append is
complete when it is durable. record: one record each, however many wait (seed 3's naive log).
buffered: group, without the sync. An append is complete when the operating system has it: it
outlives the process, not the power. What is left after a power cut is a prefix in order, never less
than the last full segment, the last `Log.flush` or the last clean stop, which do sync.
"""

SyncCall = Literal["fdatasync", "fsync", "o_dsync"]
"""What makes a write durable. o_dsync: the write itself, by the flag of the open file."""

Io = Literal["cached", "direct"]
"""cached: through the page cache. direct: past it (O_DIRECT), in whole blocks from aligned memory;
the block that holds the tail is written again, padded with zeros."""

DriverName = Literal["thread", "inline", "pipeline"]
"""Who writes and syncs. thread: one thread of the log's. inline: the caller of `append`. pipeline:
one thread writes while another syncs; a sync completes what was written before it began."""

PageCache = Literal["keep", "drop"]
"""drop: what is durable leaves the page cache behind the head, a MiB at a time."""

Capability = Literal["fallocate", "o_direct", "o_dsync", "fadvise", "sync_file_range"]
"""What a policy may ask of a file system or an operating system, and not get."""
CAPABILITIES: Final[tuple[Capability, ...]] = get_args(Capability)

_ALIGNMENT: Final = 4096
_SEGMENT_MAX: Final = 1 << 31
"""Offsets are 32 bits of a position, and one oversized record may follow the last regular one."""
_GATHER_US_MAX: Final = 10_000_000
"""Ten seconds: nobody waits longer for an acknowledgement on purpose."""


@dataclass(frozen=True, slots=True)
class SyncPolicy:
    """The knobs of a log; `wal.policy` documents each."""

    segment_bytes: int = 64 << 20
    """A segment ends near this size; a larger single record gets a segment of its own size."""
    fill_step_bytes: int = 4 << 20
    """Zeros are written, or blocks reserved, ahead of the head in steps of this size."""
    prepare: Prepare = "recycle"
    spare_segments_max: int = 4
    """Released files kept for reuse: what one snapshot releases (three), and one."""
    job_bytes_max: int = 4 << 20
    """One write takes at most this much (one larger record travels alone): 4 MiB + fdatasync
    reach 1,690 MB/s where 1 MiB reach 1,300 (CALIBRATION)."""
    job_records_max: int = 256
    """Records per write: three buffers each stay below IOV_MAX (1,024)."""
    queue_bytes_max: int = 256 << 20
    """What may wait for the disk before `append` refuses: seconds of any disk's bandwidth."""
    commit: Commit = "group"
    gather_us: int = 0
    """How long a group gathers at most, from when the disk could have taken it. 0: not at all, a
    group is what came while the disk was busy with the one before."""
    gather_records: int = 0
    """A group that gathers is written at this many records, and holds no more. 0: no such limit."""
    gather_bytes: int = 0
    """A group that gathers is written at this many bytes. 0: no such limit."""
    sync: SyncCall = "fdatasync"
    io: Io = "cached"
    driver: DriverName = "thread"
    page_cache: PageCache = "keep"
    writeback_bytes: int = 0
    """A buffered log asks for the writing of what is dirty (sync_file_range, which waits for nothing
    and promises nothing) whenever this much is, so that the sync of a segment's end is short. 0: no."""

    def __post_init__(self) -> None:
        """Refuse sizes and choices that contradict each other."""
        for name, choices in _CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise ValueError(f"{name}: {value!r} is not one of {choices}")
        if not _ALIGNMENT * 4 <= self.segment_bytes <= _SEGMENT_MAX:
            raise ValueError(f"segment_bytes: {self.segment_bytes} is out of range")
        if self.segment_bytes % _ALIGNMENT or self.fill_step_bytes % _ALIGNMENT:
            raise ValueError("segment_bytes and fill_step_bytes must be multiples of 4096")
        if not 0 < self.fill_step_bytes <= self.segment_bytes:
            raise ValueError("fill_step_bytes must be between 4096 and segment_bytes")
        if self.job_records_max < 2 or self.job_bytes_max < _ALIGNMENT:
            raise ValueError("job_records_max is at least 2, job_bytes_max at least 4096")
        if self.queue_bytes_max < 1:
            raise ValueError("queue_bytes_max must be positive")
        if min(self.spare_segments_max, self.writeback_bytes) < 0:
            raise ValueError("spare_segments_max and writeback_bytes must not be negative")
        if self.commit == "buffered" and self.sync == "o_dsync":
            raise ValueError("commit 'buffered' does not sync its writes; 'o_dsync' syncs each")
        self._check_gathering()

    def _check_gathering(self) -> None:
        """Refuse a group that would never be written, or that nothing can gather."""
        if min(self.gather_records, self.gather_bytes) < 0:
            raise ValueError("gather_records and gather_bytes must not be negative")
        if not 0 <= self.gather_us <= _GATHER_US_MAX:
            raise ValueError(f"gather_us must be between 0 and {_GATHER_US_MAX}")
        if (self.gather_records or self.gather_bytes) and not self.gather_us:
            raise ValueError(
                "gather_records and gather_bytes need gather_us: a group that never fills must be"
                " written too"
            )
        if self.gather_us and self.commit == "record":
            raise ValueError("commit 'record' gathers nothing: gather_us must be 0")
        if self.gather_us and self.driver == "inline":
            raise ValueError(
                "driver 'inline' writes before append returns: gather_us must be 0; append many"
                " records at once instead"
            )

    @property
    def records_per_job(self) -> int:
        """Records that one write holds at most."""
        if self.commit == "record":
            return 1
        return self.gather_records or self.job_records_max

    @property
    def bytes_per_job(self) -> int:
        """Bytes that one write holds at most, but for a single larger record."""
        return min(self.gather_bytes, self.job_bytes_max) or self.job_bytes_max


_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "prepare": get_args(Prepare),
    "commit": get_args(Commit),
    "sync": get_args(SyncCall),
    "io": get_args(Io),
    "driver": get_args(DriverName),
    "page_cache": get_args(PageCache),
}

# ---- named policies --------------------------------------------------------------------------

TUNING: Final[Mapping[str, Mapping[str, int]]] = {
    "balanced": {
        "gather_bytes": 64 << 10,
        "gather_records": 100,
        "gather_us": 10_000,
        "fill_step_bytes": 16 << 20,
    },
    "low_latency": {
        "gather_bytes": 16 << 10,
        "gather_records": 10,
        "gather_us": 1_000,
        "fill_step_bytes": 4 << 20,
    },
    "high_throughput": {
        "gather_bytes": 256 << 10,
        "gather_records": 1_000,
        "gather_us": 100_000,
        "fill_step_bytes": 64 << 20,
    },
}
"""Seed 3's tuning guide: its default, low latency, high throughput. Write buffer, batch size, longest
wait and step of the preparation. Frames go to the disk from where they lie, so that its write buffer
is here what it triggers: the write of a group of so many bytes."""

PRESETS: Final[Mapping[str, Mapping[str, int | str]]] = {
    "natural": {},
    "naive": {"commit": "record", "sync": "fsync", "prepare": "append", "driver": "inline"},
    "buffered": {"commit": "buffered"},
    **TUNING,
}
"""Names of sets of fields, over the defaults. natural: the default. naive: seed 3's."""


def policy_of_text(text: str, base: SyncPolicy | None = None) -> SyncPolicy:
    """Read a policy: preset names and `field=value`, by commas, later ones over earlier ones.

    ValueError names what is wrong and what is possible.
    """
    base = base or SyncPolicy()
    changes: dict[str, int | str] = {}
    for word in filter(None, (part.strip() for part in text.split(","))):
        name, is_field, value = (part.strip() for part in word.partition("="))
        if is_field:
            changes[name] = _value_of(base, name, value)
        elif name in PRESETS:
            changes |= PRESETS[name]
        else:
            raise ValueError(
                f"no log policy {name!r}; named ones are {', '.join(PRESETS)}; or FIELD=VALUE"
            )
    return replace(base, **changes)  # type: ignore[arg-type]  # _value_of gives each field its type


def _value_of(base: SyncPolicy, name: str, text: str) -> int | str:
    known = {field.name: getattr(base, field.name) for field in fields(base)}
    if name not in known:
        raise ValueError(f"a log policy has no field {name!r}; it has {', '.join(known)}")
    if isinstance(known[name], str):
        return text
    if not text.isdecimal():
        raise ValueError(f"{name}: {text!r} is not a whole number")
    return int(text)


# ---- what a file system can do ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Missing:
    """A capability that a policy asked for and did not get, and what happens instead."""

    capability: Capability
    instead: str

    def __str__(self) -> str:
        """Return one line for a person."""
        return f"{self.capability} is missing here: {self.instead}"


_FALLBACKS: Final[Mapping[Capability, tuple[str, str | int, str | int, str]]] = {
    "fallocate": ("prepare", "fallocate", "append", "blocks are allocated as they are written"),
    "o_direct": ("io", "direct", "cached", "writes go through the page cache"),
    "o_dsync": ("sync", "o_dsync", "fdatasync", "every write is followed by fdatasync"),
    "fadvise": ("page_cache", "drop", "keep", "what was written stays in the page cache"),
    "sync_file_range": (
        "writeback_bytes", 1, 0, "the sync of a segment's end has everything to write",
    ),
}  # fmt: skip
"""Capability → field, value that needs it (1: any), value that stands in for it, what that means.

Each stands in without a weaker promise."""


def needs(policy: SyncPolicy) -> tuple[Capability, ...]:
    """Return what a policy asks of a file system beyond writing and fdatasync."""
    return tuple(
        capability
        for capability, (name, value, _, _) in _FALLBACKS.items()
        if getattr(policy, name) == value or (value == 1 and getattr(policy, name))
    )


def settle(
    policy: SyncPolicy, present: Collection[Capability]
) -> tuple[SyncPolicy, tuple[Missing, ...]]:
    """Return the policy that a file system can keep, and what it lacks of the one asked for."""
    missing = []
    for capability in needs(policy):
        if capability not in present:
            name, _, stand_in, instead = _FALLBACKS[capability]
            policy = replace(policy, **{name: stand_in})  # type: ignore[arg-type]  # the table's types
            missing.append(Missing(capability, instead))
    return policy, tuple(missing)
