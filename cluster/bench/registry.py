"""The benches there are. A new one is one line here and one command in `cluster.cli_bench`.

Imports nothing of the benches themselves: the help of the command line is made from this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cluster.cli_support import LazyVerb

__all__ = ["BENCHES"]

BENCHES: Final[Mapping[str, LazyVerb]] = {
    "replication": LazyVerb(
        "cluster.cli_bench",
        "replication_command",
        "Puts per second and MB/s, beside what Python can do with no Raft.",
    ),
    "wal": LazyVerb(
        "cluster.cli_bench",
        "wal_command",
        "What each optimisation of the write-ahead log is worth on this disk.",
    ),
    "dashboard": LazyVerb(
        "cluster.cli_bench",
        "dashboard_command",
        "The dashboard's CPU, bytes and key echo, and what it costs the nodes.",
    ),
    "sim": LazyVerb("cluster.cli_bench", "sim_command", "Simulated clusters per minute and core."),
    "check": LazyVerb(
        "cluster.cli_check", "check_bench_command", "How long the judges of histories take."
    ),
    "compression": LazyVerb(
        "cluster.cli_bench",
        "compression_command",
        "Bytes saved and time taken by lz4 and zstd, on text and on noise.",
    ),
    "cwal": LazyVerb(
        "cluster.cli_bench",
        "cwal_command",
        "CWal's own benchmark on our writer of its format, and its planned extensions.",
    ),
}
