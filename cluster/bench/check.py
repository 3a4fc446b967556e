"""How long the judges take: 100,000 operations over 100 keys, and histories with known verdicts.

Each way of deciding reads the same file from disk and judges it, in turns (A B C A B C …); what
counts is all of it: reading, pairing, judging. The history comes from `cluster.check.sample`, so it
is linearizable by construction; 1 % of its operations are of unknown outcome.
"""

from __future__ import annotations

import io
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cluster.bench.report import BenchReport, Ratio, commit, limit, machine
from cluster.check.budget import Budget
from cluster.check.exports import export_history
from cluster.check.formats import read_history
from cluster.check.history import HistoryError
from cluster.check.judge import Rules, judge
from cluster.check.linearizable import Way
from cluster.check.sample import SampleSpec, sample_history
from cluster.check.verdict import Verdict
from cluster.tables import aligned

__all__ = ["Settings", "check_bench", "table"]

_LIMITS_S: Final = {"witness": 10.0, "wgl": 60.0}
_LABELLED_LIMIT_S: Final = 10.0
_WORDS: Final = {"linearizable": Verdict.PASS, "not-linearizable": Verdict.FAIL}


@dataclass(frozen=True, slots=True)
class Settings:
    """What to measure."""

    operations: int = 100_000
    keys: int = 100
    processes: int = 20
    rounds: int = 5
    labelled: Path | None = None
    """A directory with VERDICTS.tsv: a file name and its verdict per line."""


def check_bench(settings: Settings, tell: Callable[[str], object]) -> BenchReport:
    """Run the bench. Raises HistoryError, OSError for labelled histories that cannot be read."""
    spec = SampleSpec(
        settings.operations, settings.keys, settings.processes, "unique", crash_percent=1.0
    )
    stream = io.StringIO()
    export_history(sample_history(spec), "jsonl", stream, "register")
    content = stream.getvalue().encode()
    seconds: dict[str, list[float]] = {"read": [], "witness": [], "zones": [], "wgl": []}
    for number in range(1, settings.rounds + 1):
        for way in (Way.WITNESS, Way.ZONES, Way.SEARCH):
            read, judged = _measure(content, way)
            seconds["read"].append(read)
            seconds[way.value].append(read + judged)
        tell(f"round {number} of {settings.rounds}")
    facts = machine(Path.cwd())
    rows: list[dict[str, Any]] = []
    ratios: list[Ratio] = []
    for name, values in seconds.items():
        middle = statistics.median(values)
        rows.append(
            {
                "what": f"{name}, {settings.operations:,} operations, {settings.keys} keys",
                "seconds": round(middle, 3),
                "per_s": round(settings.operations / middle),
                "load": round(os.getloadavg()[0], 2),
            }
        )
        if name in _LIMITS_S:
            ratios.append(limit(f"{name}_seconds", middle, _LIMITS_S[name]))
    if settings.labelled is not None:
        row, more = _labelled(settings.labelled)
        rows.append(row)
        ratios += more
    return BenchReport("check", rows, ratios, facts, commit())


def _measure(content: bytes, way: Way) -> tuple[float, float]:
    """Return the seconds to read a history and to judge it; it must pass."""
    began = time.perf_counter()
    history = read_history(content)
    read = time.perf_counter()
    judgement = judge(history, "register", Rules(Budget(600, 1 << 14), way))
    ended = time.perf_counter()
    assert judgement.verdict is Verdict.PASS, judgement.findings[0]
    return read - began, ended - read


def _labelled(directory: Path) -> tuple[dict[str, Any], list[Ratio]]:
    """Judge every history of a directory whose verdict is known."""
    longest, wrong, count = 0.0, [], 0
    for number, line in enumerate((directory / "VERDICTS.tsv").read_text().splitlines(), 1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 2 or fields[1] not in _WORDS:
            raise HistoryError(number, f"VERDICTS.tsv: {line!r}; a line is FILE and VERDICT")
        name, word = fields
        model = "kv-append" if name.startswith("kv") else "cas"
        began = time.perf_counter()
        history = read_history((directory / name).read_bytes())
        judgement = judge(history, model, Rules(Budget(60)))
        longest = max(longest, time.perf_counter() - began)
        count += 1
        if judgement.verdict is not _WORDS[word]:
            wrong.append(name)
    row: dict[str, Any] = {
        "what": f"{count} labelled histories, the longest",
        "seconds": round(longest, 3),
        "disagree": wrong,
        "load": round(os.getloadavg()[0], 2),
    }
    return row, [
        limit("labelled_longest_seconds", longest, _LABELLED_LIMIT_S),
        limit("labelled_disagreements", float(len(wrong)), 0.0),
    ]


def table(report: BenchReport) -> str:
    """Return the rows for a person."""
    rows = [
        [
            str(row["what"]),
            f"{row['seconds']:.2f}",
            f"{row['per_s']:,}" if "per_s" in row else "–",
            str(row["load"]),
        ]
        for row in report.rows
    ]
    return aligned(["WHAT", "SECONDS", "PER S", "LOAD"], rows, frozenset({"SECONDS", "PER S"}))
