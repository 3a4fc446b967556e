"""Three answers, and what a judge hands back. Unknown is never counted as a pass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from cluster.exits import Exit

__all__ = ["Finding", "Verdict", "worst"]


class Verdict(Enum):
    """What a judge says."""

    PASS = "pass"  # noqa: S105 - a verdict, no password
    FAIL = "fail"
    UNKNOWN = "unknown"

    @property
    def exit_code(self) -> Exit:
        """The exit code of a command that ends with this verdict."""
        return {
            Verdict.PASS: Exit.HELD,
            Verdict.FAIL: Exit.FAILED,
            Verdict.UNKNOWN: Exit.UNKNOWN,
        }[self]


@dataclass(slots=True)
class Finding:
    """One judge's answer: `judge` names the property, `reason` says why in a sentence."""

    judge: str
    verdict: Verdict
    reason: str
    lines: list[str] = field(default_factory=list)
    """The evidence for a person: the shortest that shows it, in order."""
    facts: dict[str, Any] = field(default_factory=dict)
    """The evidence for a program; ends up in the JSON document as it is."""
    seconds: float = 0.0

    def document(self) -> dict[str, Any]:
        """Return the finding as it stands in a JSON document."""
        return {
            "name": self.judge,
            "verdict": self.verdict.value,
            "reason": self.reason,
            "lines": self.lines,
            "seconds": round(self.seconds, 3),
            **self.facts,
        }


def worst(findings: Iterable[Finding]) -> Verdict:
    """Return the verdict over all: one failure fails, else one unknown is unknown.

    No finding at all is unknown: nothing was shown.
    """
    verdicts = {finding.verdict for finding in findings}
    if Verdict.FAIL in verdicts:
        return Verdict.FAIL
    return Verdict.PASS if verdicts == {Verdict.PASS} else Verdict.UNKNOWN
