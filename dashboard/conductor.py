"""The demo's tour on a screen: it writes, breaks and heals in a thread, and says what comes next.

A person may hasten it (`n`), pause it (`p`), or act by hand at any moment, which pauses it too.
The steps, the writer and the proof are those of the headless demo (`cluster.demo`).
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cluster.demo.tour import steps_for
from cluster.demo.writer import Plan, Writer
from cluster.exits import CommandError
from dashboard.presenter.view import Verdict

if TYPE_CHECKING:
    from cluster.demo.report import Report
    from cluster.demo.run import Run

__all__ = ["Conductor"]

JOIN_TIMEOUT_S: Final = 60.0
"""As long as the last answers of a demo may take (`cluster.demo.run`)."""
LOOK_S: Final = 0.05
SHOWN_S: Final = 2.5
"""How long the result of a step stays before the next one is announced."""
STRETCH: Final = 3
"""The writer goes on at its pace for this many times the tour, so that a pause is no standstill."""
TRICKLE_S: Final = 0.02
"""After that it writes 50 a second, for as long as the pauses last: every step has writes to show, and
an hour adds 180,000 keys."""


class Conductor:
    """One tour. Its thread works; the screen's thread reads and steers. See `dashboard.tour.Tour`."""

    def __init__(self, run_dir: Path, plan: Plan, seconds: float) -> None:
        self.report: Report | None = None
        self.error: CommandError | None = None
        self._run_dir = run_dir
        rounds, lasting = plan.rounds * STRETCH, plan.seconds * STRETCH
        self._plan = replace(plan, rounds=rounds, seconds=lasting, trickle_s=TRICKLE_S)
        self._seconds = seconds
        self._changed = threading.Condition()
        self._stopping = False
        self._hurry = False
        self._paused = False
        self._waiting_s: float | None = None
        self._words = "the cluster is being written to"
        self._verdict: Verdict | None = None
        self._writer: Writer | None = None
        self._thread = threading.Thread(target=self._work, name="tour", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    # ---- the screen's side -----------------------------------------------------------------

    @property
    def caption(self) -> str:
        """What is about to happen, and why."""
        with self._changed:
            if self._paused:
                return f"TOUR PAUSED, it is yours (p: on)  next: {self._words}"
            if self._waiting_s is None:
                return self._words
            return f"in {math.ceil(self._waiting_s)} s: {self._words}"

    @property
    def verdict(self) -> Verdict | None:
        """What the writer was told so far; at the end, what reading back has found."""
        if self._verdict is not None or self._writer is None:
            return self._verdict
        found = self._writer.acknowledged
        bad = f" {len(found.refused)} refused" if found.refused else ""
        unknown = f" {len(found.unknown)} unknown" if found.unknown else ""
        return Verdict(f"{len(found.digests):,} puts acked{bad}{unknown}", "head")

    @property
    def acked(self) -> int:
        """Puts acknowledged so far."""
        return self._writer.acked if self._writer is not None else 0

    def go_on(self) -> None:
        """Do the next step now."""
        with self._changed:
            self._hurry, self._paused = True, False
            self._changed.notify_all()

    def pause(self) -> None:
        """Pause, or go on."""
        with self._changed:
            self._paused = not self._paused
            self._changed.notify_all()

    def take_over(self) -> None:
        """Pause: a person acts by hand."""
        with self._changed:
            self._paused = True

    def stop(self) -> None:
        """End the tour where it is."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(JOIN_TIMEOUT_S)

    # ---- the thread ------------------------------------------------------------------------

    def _work(self) -> None:
        from cluster.demo.run import Run
        from cluster.local import LocalCluster

        cluster = LocalCluster(self._run_dir)
        run = Run(cluster, self._plan, self._say)
        try:
            self._conduct(run)
        except CommandError as error:
            if not self._stopping:
                self.error = error
                self._say(f"the tour ended: {error}")
                self._verdict = Verdict("TOUR FAILED", "bad")
        finally:
            run.close()
            cluster.close()

    def _conduct(self, run: Run) -> None:
        self._writer = writer = run.writer
        run.start()
        steps = steps_for(run.cluster.spec.nodes)
        before = 0.0
        for number, step in enumerate(steps, 1):
            place = f"{number}/{len(steps)}"
            if not self._await(
                f"step {place}: {step.caption}", (step.share - before) * self._seconds
            ):
                writer.finish(0)
                return
            before = step.share
            run.tour.do(step, run.started, place)
            self._pause_for(SHOWN_S)
        if not self._await(
            "the end: heal, read every put back, compare", (1 - before) * self._seconds
        ):
            writer.finish(0)
            return
        self._finish(run)

    def _await(self, words: str, seconds: float) -> bool:
        """Announce what comes, and wait for its time; pauses stop the clock. False: leave."""
        left = max(0.0, seconds)
        with self._changed:
            self._words, self._hurry = words, False
            while not self._stopping and not self._hurry and (left > 0 or self._paused):
                self._waiting_s = left
                before = time.monotonic()
                self._changed.wait(LOOK_S)
                if not self._paused:
                    left -= time.monotonic() - before
            self._waiting_s = None
            return not self._stopping

    def _pause_for(self, seconds: float) -> None:
        with self._changed:
            self._hurry = False
            self._changed.wait_for(lambda: self._stopping or self._hurry, seconds)

    def _say(self, words: str) -> None:
        with self._changed:
            self._words = words.strip()

    def _finish(self, run: Run) -> None:
        """Stop writing, heal, read everything back, and judge."""
        self.report = report = run.finish()
        acked, lost = len(report.acknowledged.digests), len(report.findings.lost)
        words = f"{report.verdict.upper()} {acked:,} acked, {lost} lost"
        self._verdict = Verdict(words, "headstrong" if report.verdict == "pass" else "bad")
        self._say(f"the tour is over: {words}. The cluster is yours until q")
