"""What a demo run found, as the `raftdeck.test/1` document and as text for a person."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from cluster.demo.collect import NodeTotals
from cluster.demo.tour import Fault
from cluster.demo.verify import EXAMPLES_MAX, Findings
from cluster.demo.writer import Acknowledged, Plan

__all__ = ["TEST_SCHEMA", "Report", "Verdict"]

TEST_SCHEMA: Final = "raftdeck.test/1"
Verdict = Literal["pass", "fail", "unknown"]
_MB: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Check:
    """One property and whether it held."""

    name: str
    verdict: Verdict
    detail: str


@dataclass(frozen=True, slots=True)
class Report:
    """A finished run."""

    plan: Plan
    nodes: int
    seconds: float
    """From the first put to the last answer."""
    acknowledged: Acknowledged
    faults: tuple[Fault, ...]
    findings: Findings
    totals: tuple[NodeTotals, ...]
    leaders: dict[int, int]
    data_dir: Path

    @property
    def checks(self) -> tuple[Check, ...]:
        """Every property that the run stands for."""
        found, acked = self.findings, self.acknowledged
        unproved = [fault.kind for fault in self.faults if not fault.proof]
        silent = [fault.kind for fault in self.faults if fault.leaderless_ms is None]
        return (
            Check("something was acknowledged", _held(acked.digests, "unknown"), f"{len(acked.digests)} puts"),
            Check("nothing acknowledged is lost", _held(not found.lost), _examples(found.lost)),
            Check("nothing is applied twice", _held(not found.duplicated), _examples(found.duplicated)),
            Check("nothing appears that nobody wrote", _held(not found.phantoms), _examples(found.phantoms)),
            Check("all replicas hold the same", _held(found.replicas_equal), f"{len(found.views)} views"),
            Check("no put was refused", _held(not acked.refused), _examples(set(acked.refused))),
            Check("every fault took effect", _held(not unproved, "unknown"), ", ".join(unproved)),
            Check("writes went on after every fault", _held(not silent, "unknown"), ", ".join(silent)),
        )  # fmt: skip

    @property
    def verdict(self) -> Verdict:
        """The worst of the checks; unknown is never a pass."""
        verdicts = {check.verdict for check in self.checks}
        return "fail" if "fail" in verdicts else "unknown" if "unknown" in verdicts else "pass"

    @property
    def summary(self) -> str:
        """The verdict in a line: it goes into the recording."""
        acked, found = self.acknowledged, self.findings
        return (
            f"{self.verdict.upper()}: {len(acked.digests):,} acked, {len(found.lost)} lost,"
            f" {len(found.duplicated)} duplicated"
        )

    @property
    def elections(self) -> int:
        """Changes of the leader that were seen: terms with a leader, less the first."""
        return max(0, len(self.leaders) - 1)

    def document(self) -> dict[str, Any]:
        """Return the JSON document of `--json`."""
        acked = self.acknowledged
        return {
            "schema": TEST_SCHEMA,
            "scenario": "demo",
            "verdict": self.verdict,
            "checks": [asdict(check) for check in self.checks],
            "faults": [asdict(fault) for fault in self.faults],
            "ops": {
                "acked": len(acked.digests),
                "lost": len(self.findings.lost),
                "duplicated": len(self.findings.duplicated),
                "unknown": len(acked.unknown),
                "refused": len(acked.refused),
                "phantoms": len(self.findings.phantoms),
            },
            "run_dir": str(self.data_dir),
            "input": {
                "name": self.plan.workload.name,
                "items": self.plan.workload.items,
                "bytes": self.plan.workload.value_bytes,
                "rounds": self.plan.rounds,
                "acked_bytes": acked.value_bytes,
            },
            "cluster": {"nodes": self.nodes, "elections": self.elections, "leaders": self.leaders},
            "seconds": round(self.seconds, 3),
            "per_node": [self._node_row(total) for total in self.totals],
            "views": [
                {"source": view.source, "keys": view.keys, "bytes": view.value_bytes, "sha256": view.sha256}
                for view in self.findings.views
            ],
        }  # fmt: skip

    def lines(self) -> Iterator[str]:
        """Yield the report as text."""
        acked, found = self.acknowledged, self.findings
        workload = self.plan.workload
        yield f"input        {workload.name}: {workload.items:,} items, {workload.value_bytes / _MB:,.1f} MB, {self.plan.rounds} x"
        yield (
            f"acked        {len(acked.digests):,} puts, {acked.value_bytes / _MB:,.1f} MB in {self.seconds:.1f} s"
        )
        yield f"lost         {len(found.lost)}"
        yield f"duplicated   {len(found.duplicated)}"
        yield f"unknown      {len(acked.unknown)} (no answer: they may or may not be there)"
        yield f"elections    {self.elections}   terms led: " + ", ".join(
            f"{term} by n{node}" for term, node in self.leaders.items()
        )
        yield "leaderless   from the event to the next acknowledged write"
        for fault in self.faults:
            time = "–" if fault.leaderless_ms is None else f"{fault.leaderless_ms:,.0f} ms"
            yield f"  {fault.at_s:5.1f} s  {fault.kind:<7}{fault.target:<12}{time:>10}"
        yield "node         lives    fsyncs   entries/fsync   WAL MB/s"
        for total in self.totals:
            row = self._node_row(total)
            per_fsync = row["entries_per_fsync"]
            shown = "–" if per_fsync is None else f"{per_fsync:.1f}"
            yield f"  n{total.node:<9}{total.lives:>6}{total.fsyncs:>10,}{shown:>16}{row['wal_MB_per_s']:>11.1f}"
        yield "read back    " + ", ".join(
            f"{view.source} {view.keys:,} keys" for view in found.views
        )
        for check in self.checks:
            if check.verdict != "pass":
                yield f"{check.verdict.upper():<13}{check.name}: {check.detail}"
        yield f"verdict      {self.verdict}"

    def _node_row(self, total: NodeTotals) -> dict[str, Any]:
        per_fsync = total.entries_per_fsync
        return {
            "node": total.node,
            "lives": total.lives,
            "fsyncs": total.fsyncs,
            "entries": total.entries,
            "entries_per_fsync": None if per_fsync is None else round(per_fsync, 2),
            "wal_MB_per_s": round(total.bytes_written / _MB / self.seconds, 2),
        }


def _held(condition: object, otherwise: Verdict = "fail") -> Verdict:
    return "pass" if condition else otherwise


def _examples(keys: set[bytes]) -> str:
    shown = ", ".join(key.decode("utf-8", "replace") for key in sorted(keys)[:EXAMPLES_MAX])
    return f"{len(keys)}: {shown}" if keys else ""
