"""The steps of the workshop: what is said, what is measured, what follows (seed 3's sequence)."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast

from scripts._workshop_stage import RECORD_BYTES, Fields, LostError, Stage, Variant
from scripts.durable_kv import DurableKV
from wal import OsFilesystem, SyncPolicy
from wal.follow import newest
from wal.segment import offset_of_position

__all__ = ["STEPS", "Step", "kill_writer"]

SEED_NAIVE: Final = 238
SEED_OPTIMISED: Final = 17_857
SEED_SPEEDUP: Final = 74.8
SEED_RECORDS = 1_000
"""What the workshop that this follows measured, on a disk that it does not name."""
SECONDS = 0.6
"""How long writers write, where a rate is asked for."""
LITTLE_ROUNDS: Final = 3
"""By turns: on a disk that others use too, what is measured once is the others."""

TOGETHER: Final[Fields] = {
    "commit": "group", "sync": "fdatasync", "prepare": "recycle", "driver": "thread",
}  # fmt: skip


def store(stage: Stage) -> None:
    """Show the write-ahead rule."""
    stage.say("""
        A store keeps its keys in memory, and must not forget them. So it writes down what it is going
        to do before it does it: to the end of one file, which is the cheapest place on any disk. This
        is the write-ahead rule: first the log, then the dictionary, then the answer.

        DurableKV (scripts/durable_kv.py) does that in 300 lines. Three writes, and what its log holds:
    """)
    place = stage.place()
    with DurableKV(OsFilesystem(), str(place)) as kv:
        kv.put(b"greeting", b"hello")
        kv.put_many({b"a": b"1", b"b": b"2"})
        kv.delete(b"a")
    lines = [f"{'byte':>6}  {'frame':<10}  {'entries':>7}  {'bytes':>5}"]
    for sight in newest(OsFilesystem(), str(place), 8):
        header = sight.header
        assert header is not None, "written a moment ago"
        entries = header.count or "–"
        byte = offset_of_position(sight.position)
        lines.append(f"{byte:>6}  {header.kind.name:<10}  {entries:>7}  {sight.size:>5}")
    stage.show(lines)
    with DurableKV(OsFilesystem(), str(place)) as kv:
        keys = b", ".join(sorted(kv.items())).decode()
        stage.say(f"Opened again, it replays {kv.replayed} operations, and has the keys: {keys}.")


def crash(stage: Stage) -> None:
    """Kill a writer, twice."""
    stage.say("""
        A process that writes key after key, and says which ones are acknowledged, is killed with
        SIGKILL: it cannot clean up. Then the store is opened again. The second row does what must not
        be done: it acknowledges what is only in its own memory yet.
    """)
    rows = []
    for name, options in (("log, then answer", []), ("answer, then log", ["--unsafe"])):
        place = stage.place()
        acknowledged = kill_writer(place, 400, options)
        with DurableKV(OsFilesystem(), str(place)) as kv:
            found = sum(kv.get(b"key %d" % n) is not None for n in range(1, acknowledged + 1))
        rows.append((name, acknowledged, found, acknowledged - found))
    stage.show(
        [f"{'':<18}  {'acknowledged':>12}  {'found':>6}  {'lost':>6}"]
        + [
            f"{name:<18}  {acked:>12,}  {found:>6,}  {lost:>6,}"
            for name, acked, found, lost in rows
        ]
    )
    stage.say("""
        A killed process loses its own memory and nothing else: what it gave to the kernel is written
        later. A power cut takes that too. Only fsync is a promise about power, and its price is what
        the rest of this workshop is about.
    """)
    if rows[0][3]:
        raise LostError(f"{rows[0][3]} acknowledged keys were lost")


def kill_writer(place: Path, after: int, options: Sequence[str] = ()) -> int:
    """Run the writer until it has acknowledged so much, kill it, return the last it said."""
    command = [sys.executable, "-m", "scripts.durable_kv", "write", str(place), *options]
    root = Path(__file__).resolve().parent.parent
    writer = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    last = 0
    try:
        for line in writer.stdout:
            last = int(line)
            if last >= after:
                break
    finally:
        writer.kill()
        rest = writer.stdout.read().split()
        code = writer.wait()
        writer.stdout.close()
    assert code == -signal.SIGKILL, f"the writer ended by itself, with {code}"
    return int(rest[-2]) if len(rest) > 1 else last  # the last line may be cut


def little(stage: Stage) -> None:
    """Measure L, λ and W."""
    stage.say("""
        Little's law: in anything that is stable, the number of things inside (L) is the rate at which
        they leave (λ) times the time each one stays (W). For a log: writers that wait = writes per
        second × seconds each one waits. Measured with DurableKV, by turns:
    """)
    lines = [
        f"{'writers (L)':>11}  {'writes/s (λ)':>12}  {'each waits (W)':>14}  {'λ × W':>6}  syncs/s"
    ]
    counts = (1, 2, 4, 8, 16)
    found: dict[int, list[tuple[float, float, float]]] = {writers: [] for writers in counts}
    for _ in range(LITTLE_ROUNDS):
        for writers in counts:
            found[writers].append(_waited(stage.place(), writers))
    shared = 0.0
    for writers, turns in found.items():
        rate, wait_s, syncs = sorted(turns)[len(turns) // 2]
        shared = rate / syncs
        lines.append(
            f"{writers:>11}  {rate:>12,.0f}  {wait_s * 1e3:>11.2f} ms  {rate * wait_s:>6.1f}"
            f"  {syncs:>7,.0f}"
        )
    stage.show(lines)
    stage.say(f"""
        The last column but one is the first one, measured from the other end. One writer gets 1/W and
        no more, however fast the machine is: it waits for one sync after another. Of sixteen, each sync
        served {shared:.0f}: that is what makes a log fast, and what all of the following is about.
    """)


def _waited(place: Path, writers: int) -> tuple[float, float, float]:
    """Return writes per second, mean seconds of waiting, and syncs per second."""
    waits: list[float] = []
    with DurableKV(OsFilesystem(), str(place)) as kv:
        kv.put(b"first", b"")
        before = kv.log.stats().syncs
        began = time.perf_counter()

        def write(number: int) -> None:
            turn = 0
            while not turn or time.perf_counter() - began < SECONDS:
                turn += 1
                asked = time.perf_counter()
                kv.put(b"%d" % number, b"%d" % turn * 100)
                waits.append(time.perf_counter() - asked)

        threads = [threading.Thread(target=write, args=(number,)) for number in range(writers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        spent = time.perf_counter() - began
        syncs = max(1, kv.log.stats().syncs - before) / spent
    return len(waits) / spent, sum(waits) / len(waits), syncs


def naive(stage: Stage) -> None:
    """Show what one fsync per record costs."""
    stage.say(f"""
        The naive log writes one record and calls fsync, then the next one. Records of
        1 KiB, each made durable by itself, on this disk (the workshop that this follows measured
        {SEED_NAIVE}/s on its own):
    """)
    (trial,) = stage.compare([Variant("naive")])
    stage.say(f"""
        {trial.records:,} records, {trial.syncs:,} syncs: {1e3 / trial.rate:.2f} ms each. The disk is
        idle most of that time, and the processor is too: both wait for one another. How could it be
        faster without promising less?
    """)


@dataclass(frozen=True, slots=True)
class Optimisation:
    """A step that changes the naive log in one way."""

    before: str
    variants: tuple[Variant, ...]
    after: str
    first: Variant = field(default_factory=lambda: Variant("naive"))
    """What the others are compared with."""

    def __call__(self, stage: Stage) -> None:
        """Tell, measure, conclude."""
        stage.say(self.before)
        stage.compare([self.first, *self.variants])
        stage.say(self.after)


BUFFERED = Optimisation(
    """Buffered writes, alone: records are gathered and written together, and nobody waits for a sync.
    One write instead of a hundred, and no fsync at all but at the end of a segment.""",
    (Variant("buffered", {"commit": "buffered", "driver": "thread"}),),
    """Fast, and a weaker promise: what is acknowledged outlives the process, not the power. It is Kafka's
    default, which relies on copies elsewhere. So this is what the syncs cost: nearly everything.""",
)
GROUP = Optimisation(
    """Group commit, alone: the same promise as the naive log, but one write and one fsync for all that
    waits. A hundred records are handed over at a time here, so a sync carries a hundred.""",
    (
        Variant("groups of 10", {"commit": "group", "job_records_max": 10}),
        Variant("groups of 100", {"commit": "group"}),
    ),
    """The price of an fsync is paid once per group, so the gain is about the size of the group, as long
    as the sync is what costs. It needs somebody to wait with: a single writer that waits for each
    record gains nothing by it.""",
)
PREPARED = Optimisation(
    """Pre-allocation, alone: of a file that grows, size and block map are written too, at every sync.
    fallocate reserves blocks, but each is still to be marked as written at its first use. Zeros written
    ahead, or an old file overwritten, leave nothing to be noted but the data. (All rows with fdatasync:
    fsync writes the file's times in any case.)""",
    (
        Variant("fallocate", {"sync": "fdatasync", "prepare": "fallocate"}),
        Variant("zero-filled", {"sync": "fdatasync", "prepare": "zero_fill"}),
        Variant("recycled", {"sync": "fdatasync", "prepare": "recycle"}),
    ),
    """What it gains is decided by the file system: on a quiet ext4 a sync of a prepared file needs no commit
    of the journal. Where the rows lie within one another's spread, nothing was shown; try again with
    nobody else at the disk.""",
    first=Variant("a growing file", {"sync": "fdatasync"}),
)
SYNC_CALL = Optimisation(
    """What is asked of the kernel, alone: fsync writes times and size too, fdatasync only what is needed
    to read the data back, and O_DSYNC makes each write durable without a second call. On a prepared
    file, because a size that changed has to be written whatever the call is named.""",
    (
        Variant("fdatasync", {"sync": "fdatasync", "prepare": "zero_fill"}),
        Variant("O_DSYNC", {"sync": "o_dsync", "prepare": "zero_fill"}),
    ),
    """One call less with O_DSYNC, and one less to go wrong. For groups it makes little difference: there
    is one call for many records anyway.""",
    first=Variant("fsync", {"prepare": "zero_fill"}),
)
ALIGNED = Optimisation(
    """Sector alignment and O_DIRECT, alone: whole blocks from aligned memory, past the page cache. A block
    is never read before it is written, nothing is copied, and the tail's block is written again.""",
    (
        Variant("O_DIRECT", {"io": "direct"}),
        Variant("O_DIRECT, zeros", {"io": "direct", "prepare": "zero_fill"}),
        Variant("O_DIRECT + O_DSYNC", {"io": "direct", "sync": "o_dsync", "prepare": "zero_fill"}),
    ),
    """It is asked for even latencies, and for memory that others can use; it costs reading back from the disk, and
    care. Where a file system does not know O_DIRECT, the log says so and goes through the cache.""",
)
THREADED = Optimisation(
    """A thread of its own for fsync, alone: whoever appends does not write. In the pipeline one thread
    writes the next group while another one syncs the last, as BookKeeper's force-write thread does.""",
    (
        Variant("thread", {"driver": "thread"}),
        Variant("thread, groups", {"driver": "thread", "commit": "group"}),
        Variant("pipeline, groups", {"driver": "pipeline", "commit": "group"}),
    ),
    """Alone it gains nothing for who waits for every record: the sync takes as long as before. It lets
    groups grow while the disk works. Whether a second thread pays, the spread of the rows tells: measure before
    believing.""",
)
CACHE = Optimisation(
    """Page-cache management, alone: what was written stays in memory until something else needs it. A
    log is hardly ever read, so it can be dropped behind the head (posix_fadvise).""",
    (
        Variant("dropped", {"page_cache": "drop"}),
        Variant("dropped, groups", {"page_cache": "drop", "commit": "group"}),
    ),
    """No faster by itself: it is for the neighbours. A log of a gigabyte would otherwise push a gigabyte
    of other files out of memory.""",
)


def together(stage: Stage) -> None:
    """Run seed 3's case."""
    stage.say("""
        All together: groups, prepared files, fdatasync and a thread. Seed 3's case as it is: 1,000 records
        of 1 KiB, a hundred to a group.
    """)
    variants = [Variant("naive"), Variant("all together", TOGETHER)]
    slow, fast = stage.compare(variants, records=SEED_RECORDS)
    lines = [
        f"{'':<18}  {'claimed':>9}  {'measured here':>13}",
        f"{'naive, records/s':<18}  {SEED_NAIVE:>9,}  {slow.rate:>13,.0f}",
        f"{'all, records/s':<18}  {SEED_OPTIMISED:>9,}  {fast.rate:>13,.0f}",
        f"{'speed-up':<18}  {SEED_SPEEDUP:>8.1f}×  {fast.rate / slow.rate:>12.1f}×",
        f"{'fsyncs':<18}  {'1000 → 10':>9}  {f'{slow.syncs} → {fast.syncs}':>13}",
        f"{'calls to the OS':<18}  {'~4000→20':>9}  {f'{slow.calls} → {fast.calls}':>13}",
    ]
    stage.show(lines)
    stage.say("The promise is the same in both rows: durable when acknowledged.")


def tuning(stage: Stage) -> None:
    """Run seed 3's tuning guide."""
    guide = _guide()
    stage.say("""
        A group can wait for more: larger groups, fewer syncs, later answers. Seed 3's
        guide names three settings; natural batching, the default here, waits for nothing: a group is
        what came while the disk was busy. Eight writers, each waiting for its own write:
    """)
    lines = [
        f"{'':<16}  {'buffer':>7}  {'batch':>6}  {'longest wait':>12}  {'writes/s':>8}  {'each waits':>10}"
    ]
    for name, row in guide.items():
        variant = Variant(name, row, base={})
        if variant.missing:
            lacking = ", ".join(variant.missing)
            lines.append(f"{name:<16}  not in this version: SyncPolicy has no {lacking}")
            continue
        rate, wait_s = _eight(stage.place(), variant.policy()[0])
        told = (
            f"{row.get('gather_bytes', 0) >> 10:>4} KiB  {row.get('gather_records', 0):>6}"
            f"  {row.get('gather_us', 0) / 1e3:>9.0f} ms"
            if row
            else f"{'–':>7}  {'–':>6}  {'–':>12}"
        )
        lines.append(f"{name:<16}  {told}  {rate:>8,.0f}  {wait_s * 1e3:>7.1f} ms")
    stage.show(lines)
    stage.say("""
        With fewer writers than a batch holds, a batch that waits to be full waits in vain: until the
        longest wait is over. Timers pay when many writers come on their own and the disk is slow.
    """)


def _guide() -> Mapping[str, Fields]:
    """Return seed 3's settings; the ones of `wal.policy` where it has them."""
    import wal.policy

    table = cast("Mapping[str, Fields] | None", getattr(wal.policy, "TUNING", None))
    if table is None:
        table = {
            "balanced": {"gather_bytes": 64 << 10, "gather_records": 100, "gather_us": 10_000},
            "low_latency": {"gather_bytes": 16 << 10, "gather_records": 10, "gather_us": 1_000},
            "high_throughput": {
                "gather_bytes": 256 << 10, "gather_records": 1_000, "gather_us": 100_000,
            },
        }  # fmt: skip
    return {"natural": {}, **{name: dict(row) for name, row in table.items()}}


def _eight(place: Path, policy: SyncPolicy) -> tuple[float, float]:
    with DurableKV(OsFilesystem(), str(place), policy) as kv:
        kv.put(b"first", b"")
        waits: list[float] = []
        began = time.perf_counter()

        def write(number: int) -> None:
            asked = began
            while asked - began < SECONDS or not waits:
                asked = time.perf_counter()
                kv.put(b"%d" % number, b"x" * RECORD_BYTES)
                waits.append(time.perf_counter() - asked)

        threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return len(waits) / (time.perf_counter() - began), sum(waits) / len(waits)


def others(stage: Stage) -> None:
    """Tell what four systems do."""
    stage.say(
        "What four systems do. Their words are in their own manuals; none of it is measured here."
    )
    rows = [
        ("", "BookKeeper", "Kafka", "PostgreSQL", "RocksDB"),
        ("group commit", "2 ms or 512 KiB", "by batch size", "natural; +delay", "natural, ≤ 1 MiB"),
        ("fsync", "each group", "off by default", "each commit", "off by default"),
        ("durability by", "sync, 3 copies", "copies", "sync", "sync on request"),
        ("prepared files", "16 MiB steps", "optional", "zeros, recycled", "recycling opt."),
        ("direct I/O", "no", "no", "no", "optional"),
        ("fsync thread", "yes, marker", "background", "walwriter", "no; pipelined"),
        ("page cache", "dropped", "is the design", "kept", "bytes_per_sync"),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    stage.show(
        [
            "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
            for row in rows
        ]
    )
    stage.say("""
        All four append, all four gather. They differ in when they call fsync, because they differ in
        what else keeps a copy. raftdeck: natural groups, fdatasync before every acknowledgement, zeros
        then recycled files, one thread, and a copy on a majority of the nodes.
    """)


def onwards(stage: Stage) -> None:
    """Close."""
    stage.say("""
        The log is what makes a promise true. fsync is its price, and group commit is how it is shared.
        Everything else is worth what it measures: disk and file system decide.

        Next: the log on several machines, so that a lost disk is no lost promise.
    """)
    stage.show(
        [
            "raftdeck demo                      five nodes, each with such a log; nodes are killed",
            "raftdeck bench replication         what Raft costs beside the bare pipe",
            "raftdeck wal dump --hex DIR        any node's log, frame by frame",
            "raftdeck wal convert DIR FILE      the same log as a CWal file, and back",
        ]
    )


@dataclass(frozen=True, slots=True)
class Step:
    """One screen of the workshop."""

    title: str
    run: Callable[[Stage], None]


STEPS: Final = (
    Step("A store that must not forget", store),
    Step("Kill it", crash),
    Step("Little's law, on this disk", little),
    Step("The problem: the naive log", naive),
    Step("Buffered writes", BUFFERED),
    Step("Group commit", GROUP),
    Step("Pre-allocation", PREPARED),
    Step("fsync, fdatasync, O_DSYNC", SYNC_CALL),
    Step("Sector alignment", ALIGNED),
    Step("A thread for fsync", THREADED),
    Step("The page cache", CACHE),
    Step("All together", together),
    Step("Waiting on purpose: the tuning guide", tuning),
    Step("BookKeeper, Kafka, PostgreSQL, RocksDB", others),
    Step("What to take home", onwards),
)
