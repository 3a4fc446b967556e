"""How long a judge may think and how much memory it may take; beyond it, it does not know."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Final

import psutil

__all__ = ["MEMORY_MIB", "TIMEOUT_S", "Budget", "OutOfBudgetError"]

TIMEOUT_S: Final = 60.0
MEMORY_MIB: Final = 2048
"""Defaults of the command."""
_MIB: Final = 1 << 20


class OutOfBudgetError(Exception):
    """The judge has to give up; the text says what ran out."""


@dataclass(slots=True)
class Budget:
    """Bounds of one run: seconds from now, and MiB that the whole process may hold (RSS)."""

    seconds: float = TIMEOUT_S
    memory_mib: int = MEMORY_MIB
    began: float = field(default_factory=time.monotonic)
    _process: psutil.Process = field(default_factory=psutil.Process)

    @property
    def elapsed(self) -> float:
        """Seconds since the budget was made."""
        return time.monotonic() - self.began

    def check(self, next_bytes: int = 0) -> None:
        """Raise OutOfBudgetError if a bound is reached, or would be by `next_bytes` more."""
        if self.elapsed > self.seconds:
            raise OutOfBudgetError(f"no answer within {self.seconds:g} s (--timeout)")
        held = self._process.memory_info().rss + next_bytes
        if held > self.memory_mib * _MIB:
            raise OutOfBudgetError(f"no answer within {self.memory_mib} MiB (--memory)")
