"""The log's own counts of system calls, checked against the kernel's: one run under strace.

python -m cluster.bench.wal_strace VARIANT DIRECTORY      (the child: prints its own counts)
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from cluster.bench.wal_variants import (
    ALL_TOGETHER,
    NAIVE,
    SEGMENT_BYTES,
    VARIANTS,
    Shape,
    fresh_log,
    write_all,
)

__all__ = ["counted", "cross_check"]

SHAPE: Final = Shape(1_000, 1 << 10, 100)
_TIMEOUT_S: Final = 120
_CALL: Final = re.compile(r"\b(\w+)\(\d+<[^>]*/\d{8}\.wal>")
"""A call on an open segment, as `strace -y` shows it."""
_WRITES: Final = frozenset({"write", "pwrite64", "pwritev", "pwritev2"})
_SYNCS: Final = frozenset({"fsync", "fdatasync"})


def cross_check(directory: Path) -> list[dict[str, Any]]:
    """Return a row for the naive log and for all optimisations together; none without strace."""
    strace = shutil.which("strace")
    if strace is None:
        return []
    rows = []
    for name in (NAIVE, ALL_TOGETHER):
        trace = directory / "trace"
        command = [
            strace, "-f", "-y", "-qq", "-o", str(trace), "-e",
            f"trace={','.join(sorted(_WRITES | _SYNCS))}",
            sys.executable, "-P", "-m", __name__, name, str(directory / "traced"),
        ]  # fmt: skip
        child = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S
        )
        row: dict[str, Any] = {"section": "strace", "case": name, "own": None, "strace": None}
        if child.returncode:
            row["note"] = (child.stderr.strip().splitlines() or ["strace failed"])[-1]
        else:
            row["own"] = json.loads(child.stdout)
            row["strace"] = counted(trace.read_text("utf-8", "replace"))
        row["agree"] = row["own"] is not None and row["own"] == row["strace"]
        trace.unlink(missing_ok=True)
        rows.append(row)
    return rows


def counted(trace: str) -> dict[str, int]:
    """Count the writes and syncs of segments in a trace; a call that was resumed counts once."""
    names = [match[1] for match in map(_CALL.search, trace.splitlines()) if match]
    return {
        "writes": sum(name in _WRITES for name in names),
        "syncs": sum(name in _SYNCS for name in names),
    }


def main(name: str, directory: str) -> None:
    """Run a variant once, warm-up and all, and print what the log counted over its life."""
    variant = next(each for each in VARIANTS if each.name == name)
    policy = variant.policy_for(SHAPE)
    assert policy.segment_bytes == SEGMENT_BYTES
    with fresh_log(Path(directory), policy) as (log, fs, index):
        write_all(log, variant, SHAPE, SHAPE.payloads(), index)
        log.flush().wait()
    sys.stdout.write(json.dumps({"writes": fs.calls.writes, "syncs": fs.calls.syncs}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
