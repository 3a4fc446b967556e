"""A demo under way, and how it ends: writing stops, faults are healed, everything is read back.

The headless demo and the one on a dashboard differ in who paces the steps, and in nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from cluster.client import Client
from cluster.demo.collect import Collector
from cluster.demo.report import Report
from cluster.demo.tour import Tour
from cluster.demo.verify import verify
from cluster.demo.writer import Plan, Writer
from cluster.exits import CommandError, Exit
from cluster.local import LocalCluster

__all__ = ["Run"]

CLIENT_TIMEOUT_S: Final = 30.0
DRAIN_TIMEOUT_S: Final = 60.0
"""How long the last answers may take."""


class Run:
    """One demo on a running cluster: who writes, who breaks, who looks on. Close it at the end."""

    def __init__(self, cluster: LocalCluster, plan: Plan, say: Callable[[str], None]) -> None:
        """Connect; nothing is written yet. `say` tells a person what is under way."""
        self.cluster = cluster
        self.started = 0.0
        self._plan = plan
        self._say = say
        self._collector = Collector(cluster.run_dir)
        self._client = Client(cluster.endpoints(), CLIENT_TIMEOUT_S)
        self.writer = Writer(self._client, plan)
        self.tour = Tour(cluster, self.writer, say)

    def start(self) -> None:
        """Begin to write, and the clock."""
        self.started = time.monotonic()
        self.writer.start()

    def finish(self) -> Report:
        """End the writing, heal, read everything back, and judge.

        `CommandError`: puts stay unanswered (no quorum), or one failed.
        """
        self._say("writing ends; waiting for the last answers")
        if not self.writer.finish(DRAIN_TIMEOUT_S):
            raise CommandError(
                Exit.NO_QUORUM, f"puts are unanswered after {DRAIN_TIMEOUT_S:.0f} s; see the logs"
            )
        if self.writer.error is not None:
            raise CommandError(Exit.FAILED, str(self.writer.error))
        elapsed = time.monotonic() - self.started
        self.tour.heal()
        self._collector.take(self.cluster.frame())
        self._say("reading everything back, through the leader and from every replica")
        spec = self.cluster.spec
        findings = verify(
            self._client,
            spec.node_ids,
            self.writer.acknowledged,
            lambda source: self._say(f"reading everything back, now from {source}"),
        )
        report = Report(
            plan=self._plan,
            nodes=spec.nodes,
            seconds=elapsed,
            acknowledged=self.writer.acknowledged,
            faults=tuple(self.tour.faults),
            findings=findings,
            totals=tuple(self._collector.totals()),
            leaders=self._collector.leaders(),
            data_dir=spec.data_dir,
        )
        with self.cluster.as_step("demo"):
            self.cluster.mark("everything was read back", report.summary)
        return report

    def close(self) -> None:
        """Disconnect; the cluster stays."""
        self._client.close()
        self._collector.close()
