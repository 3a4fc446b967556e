"""What compressing batches saves and costs: on real text, on the sources of Python, and on noise.

Batches are built as a leader builds them, from puts of about 1 KiB, and written to a log as a node
writes them: one append each, four outstanding. Codecs take turns in every round. What compressing
takes is CPU time of the thread that does it, so that a busy machine does not count; `cpu` is that of
the whole process, the log's thread included; `stored` is what a batch takes in the log against what it took
plain, headers included.
"""

from __future__ import annotations

import random
import sysconfig
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from struct import pack
from typing import Any, Final

from cluster.bench.report import BenchReport, Ratio, commit, judge, limit, machine, median
from cluster.exits import CommandError, Exit
from cluster.tables import aligned
from node.codec import build_batch
from node.commands import encode, put
from node.compression import BatchCompression
from node.raft.types import Batch, GroupId, Index, Term
from wal import Log, LogIdentity, OpenOptions, OsFilesystem, Record, SyncPolicy
from wal.compression import CODECS, Codec, MissingCodecError, require

__all__ = ["Settings", "compression", "table"]

VALUE_BYTES: Final = 1024
INPUT_BYTES_MAX: Final = 16 << 20
"""What is read of an input: sixteen batches of 1 MiB."""
OUTSTANDING: Final = 4
POLICY: Final = SyncPolicy(prepare="zero_fill")
NOISE: Final = "noise"


@dataclass(frozen=True, slots=True)
class Settings:
    """How to run."""

    directory: Path
    """Where the logs are written: on the disk to be measured."""
    input: Path | None = None
    """A file or a directory of files; None: the sources of the running Python."""
    batch_kib: tuple[int, ...] = (64, 1024)
    rounds: int = 5
    megabytes: int = 16
    """Plain bytes per measurement."""


@dataclass(slots=True)
class _Turn:
    """One measurement."""

    plain: int
    stored: int
    batches: int
    skipped: int
    build_s: float
    restore_s: float
    wall_s: float
    cpu_s: float


def compression(settings: Settings, tell: Callable[[str], None]) -> BenchReport:
    """Measure every codec on every input, turn by turn."""
    codecs = list(_installed(tell))
    inputs = {_name(settings.input): _read(settings.input), NOISE: _noise()}
    rows: list[dict[str, Any]] = []
    for name, content in inputs.items():
        for kib in settings.batch_kib:
            bodies = list(_bodies(content, kib << 10, settings.megabytes << 20))
            tell(f"{name}, batches of {kib} KiB: {settings.rounds} rounds")
            turns: dict[Codec, list[_Turn]] = {codec: [] for codec in codecs}
            for number in range(settings.rounds + 1):
                for codec in codecs:
                    turn = _measure(settings.directory / f"{name}-{kib}-{number}", codec, bodies)
                    if number:  # the first round warms caches and codecs up
                        turns[codec].append(turn)
            rows += [_row(name, kib, codec, found) for codec, found in turns.items()]
    facts = machine(settings.directory)
    return BenchReport("compression", rows, _ratios(rows, _name(settings.input)), facts, commit())


def _installed(tell: Callable[[str], None]) -> Iterator[Codec]:
    for codec in CODECS.values():
        try:
            require(codec)
        except MissingCodecError as error:
            tell(f"left out: {error}")
        else:
            yield codec


# ---- what is written ---------------------------------------------------------------------------


def _name(source: Path | None) -> str:
    return "python" if source is None else source.name


def _read(source: Path | None) -> bytes:
    """Return the content of a file, or of the files of a directory, up to the bound."""
    place = source or Path(sysconfig.get_path("stdlib"))
    pattern = "*" if source else "*.py"
    try:
        files = (
            [place] if place.is_file() else sorted(p for p in place.glob(pattern) if p.is_file())
        )
        content = b""
        for path in files:
            content += path.read_bytes()
            if len(content) >= INPUT_BYTES_MAX:
                break
    except OSError as error:
        raise CommandError(Exit.USAGE, f"{error.filename}: {error.strerror}") from None
    if len(content) < VALUE_BYTES:
        raise CommandError(Exit.USAGE, f"{place}: no files of at least {VALUE_BYTES} bytes in all")
    return content[:INPUT_BYTES_MAX]


def _noise() -> bytes:
    return random.Random(1).randbytes(4 << 20)


def _bodies(content: bytes, batch_bytes: int, total: int) -> Iterator[tuple[int, bytes]]:
    """Yield (count, body) of batches of puts, until there are `total` bytes; the input repeats."""
    offset = sent = number = 0
    while sent < total:
        entries, size = [], 0
        while size < batch_bytes:
            value = content[offset : offset + VALUE_BYTES]
            offset = offset + VALUE_BYTES if offset + VALUE_BYTES < len(content) else 0
            number += 1
            entry = encode(put(b"key %08d" % number, value), 1, number, 1)
            entries.append(entry)
            size += len(entry)
        sent += size
        yield len(entries), pack(f"<{len(entries)}I", *map(len, entries)) + b"".join(entries)


# ---- one measurement ---------------------------------------------------------------------------


def _measure(directory: Path, codec: Codec, bodies: Sequence[tuple[int, bytes]]) -> _Turn:
    """Build and store batches, then make them plain again; the log is removed."""
    ours = BatchCompression(codec, time.thread_time_ns)
    place = directory.with_name(f"{directory.name}-{codec.name.lower()}")
    log, _ = Log.open(OsFilesystem(), str(place), LogIdentity(bytes(16), 1), OpenOptions(POLICY))
    batches: list[Batch] = []
    waiting: deque[Any] = deque()
    try:
        wall, cpu = time.perf_counter(), time.process_time()
        index = 1
        for count, body in bodies:
            batch = build_batch((GroupId(0), Term(1), Index(index)), 0, [(count, body)], ours)
            index += count
            waiting.append(log.append([Record(batch.header, batch.body)]))
            batches.append(batch)
            if len(waiting) > OUTSTANDING:
                waiting.popleft().wait()
        for handle in waiting:
            handle.wait()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    finally:
        log.abort()
        _remove(place)
    for batch in batches:
        ours.plain(batch)
    return _Turn(
        plain=sum(64 + len(body) for _, body in bodies),
        stored=sum(batch.meta.size for batch in batches),
        batches=len(batches),
        skipped=ours.skipped,
        build_s=ours.compress_ns / 1e9,
        restore_s=ours.decompress_ns / 1e9,
        wall_s=wall,
        cpu_s=cpu,
    )


def _remove(directory: Path) -> None:
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()


def _row(name: str, kib: int, codec: Codec, turns: Sequence[_Turn]) -> dict[str, Any]:
    plain = turns[0].plain
    compress = median(turn.build_s for turn in turns) or 0.0
    restore = median(turn.restore_s for turn in turns) or 0.0
    return {
        "input": name,
        "batch_kib": kib,
        "codec": codec.name.lower(),
        "stored": round(turns[0].stored / plain, 4),
        "skipped_share": round(turns[0].skipped / turns[0].batches, 2),
        "compress_ms_per_mb": round(compress * 1e3 / (plain / 1e6), 3),
        "restore_ms_per_mb": round(restore * 1e3 / (plain / 1e6), 3),
        "cpu_ms_per_mb": _per_mb(median(turn.cpu_s for turn in turns), plain),
        "mb_per_s": round(plain / 1e6 / (median(turn.wall_s for turn in turns) or 1.0), 1),
    }


def _per_mb(seconds: float | None, size: int) -> float:
    return round((seconds or 0.0) * 1e3 / (size / 1e6), 3)


def _ratios(rows: Sequence[dict[str, Any]], text: str) -> list[Ratio]:
    """Text must shrink to half, noise may not grow, and a decision about noise must be cheap."""
    found: list[Ratio] = []
    largest = max(row["batch_kib"] for row in rows)
    for codec in ("lz4", "zstd"):
        mine = {
            row["input"]: row
            for row in rows
            if row["codec"] == codec and row["batch_kib"] == largest
        }
        if not mine:
            found.append(judge(f"{codec}_is_installed", None, 1.0))
            continue
        found.append(limit(f"{codec}_stored_vs_plain_of_{text}", mine[text]["stored"], 0.5))
        found.append(limit(f"{codec}_stored_vs_plain_of_noise", mine[NOISE]["stored"], 1.0))
        tried, used = mine[NOISE]["compress_ms_per_mb"], mine[text]["compress_ms_per_mb"]
        found.append(limit(f"{codec}_time_on_noise_vs_on_{text}", tried / used, 0.25))
    return found


_COLUMNS: Final = (
    "INPUT", "BATCH KIB", "CODEC", "STORED", "LEFT PLAIN", "COMPRESS MS/MB", "RESTORE MS/MB",
    "CPU MS/MB", "MB/S",
)  # fmt: skip


def table(report: BenchReport) -> str:
    """Return the rows for a person: shares of the plain bytes, milliseconds per plain megabyte."""
    lines = [
        [
            row["input"],
            str(row["batch_kib"]),
            row["codec"],
            f"{row['stored']:.0%}",
            f"{row['skipped_share']:.0%}",
            f"{row['compress_ms_per_mb']:.2f}",
            f"{row['restore_ms_per_mb']:.2f}",
            f"{row['cpu_ms_per_mb']:.2f}",
            f"{row['mb_per_s']:,.0f}",
        ]
        for row in report.rows
    ]
    return aligned(_COLUMNS, lines, frozenset(_COLUMNS) - {"INPUT", "CODEC"})
