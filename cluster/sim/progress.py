"""Tells how far a campaign is: now and then, not at every chunk."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Final

from cluster.sim.campaign import Campaign

__all__ = ["Progress"]

_EVERY_S: Final = 5.0


class Progress:
    """Says a line every few seconds: done, rate, time left, coverage, failures."""

    def __init__(
        self,
        seeds: int,
        say: Callable[[str], object],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Count towards `seeds`. The rate is that since the first call of `tell`."""
        self._seeds, self._say, self._clock = seeds, say, clock
        self._told_s = clock()
        self._base: tuple[float, int] | None = None

    def tell(self, total: Campaign) -> None:
        """Take the sum so far."""
        now = self._clock()
        if self._base is None:
            self._base = (now, total.seeds)
        if now - self._told_s < _EVERY_S:
            return
        self._told_s = now
        pace = ""
        since_s, seeds = now - self._base[0], total.seeds - self._base[1]
        if seeds and since_s > 0:
            left_s = (self._seeds - total.seeds) * since_s / seeds
            pace = f" · {60 * seeds / since_s:,.0f} a minute · about {_duration(left_s)} left"
        self._say(
            f"{total.seeds:,} of {self._seeds:,} seeds{pace} · {total.coverage.tuples} tuples ·"
            f" {len(total.corpus)} seeds brought something new · {len(total.failures)} failed"
        )


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
