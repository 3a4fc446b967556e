"""What the frames so far add up to: the bounded past behind charts, lags and sparklines.

A frame of eleven nodes takes some 50 kB decoded; ten minutes of them at 10 Hz would take 300 MB.
So of each frame only a `Sample` is kept: who leads each group and how far it committed, and a few
rates per node. Whoever wants an old frame whole asks the source for it.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from math import isnan, nan
from typing import Final, NamedTuple

from cluster.frames import ClusterFrame

__all__ = ["History", "Lag", "Sample", "sample_of"]

WINDOW_MS: Final = 10 * 60_000
SAMPLES_MAX: Final = 6_600
"""Ten minutes at 10 Hz and a tenth more; about 700 bytes each at eleven nodes, so 5 MB."""
GROUPS_KEPT_MAX: Final = 64
"""Groups with a past of their own; the others are shown as of now."""
RATE_WINDOW_MS: Final = 1_000
STALE_MS: Final = 1_500
"""Unwatched, a supervisor makes one frame a second."""


class Sample(NamedTuple):
    """One frame's share of the past.

    Per group: leader or 0, term, and the highest commit index known (None: nobody says). `applied`
    holds a rate per member, NaN while unknown. `high` holds, per group, the highest that was ever
    known up to then: it only grows.
    """

    unix_ms: int
    groups: tuple[tuple[int, int, int | None], ...]
    members: tuple[int, ...] = ()
    applied: array[float] = array("f")
    high: tuple[int, ...] = ()

    def applied_per_s(self, node: int) -> float | None:
        """Return how many entries a node applied per second; None if that is not known."""
        if node not in self.members:
            return None
        rate = self.applied[self.members.index(node)]
        return None if isnan(rate) else rate


class Lag(NamedTuple):
    """How long ago the leader committed what a node has not: at most `ms`, or at least."""

    ms: int
    at_least: bool


def sample_of(frame: ClusterFrame) -> Sample:
    """Return what is kept of a frame."""
    groups = tuple(_group(frame, group) for group in range(min(frame.groups, GROUPS_KEPT_MAX)))
    members = tuple(part.node for part in frame.nodes)
    rates = (part.rates if part.fresh else None for part in frame.nodes)
    applied = array("f", [nan if rate is None else rate.applied_per_s for rate in rates])
    return Sample(frame.unix_ms, groups, members, applied)


def _group(frame: ClusterFrame, group: int) -> tuple[int, int, int | None]:
    leader = frame.leader(group)
    states = [state for part in frame.nodes if (state := part.group(group)) is not None]
    commits = [state.commit for state in states]
    term = max((state.term for state in states), default=0)
    return leader or 0, term, max(commits, default=None)


class History:
    """Samples in the order of time, at most ten minutes of them."""

    def __init__(self, samples: Iterable[Sample] = ()) -> None:
        self._samples: list[Sample] = []
        for sample in samples:
            self._add(sample)

    def add(self, frame: ClusterFrame) -> None:
        """Take in a frame; one that is not newer than the newest is ignored."""
        self._add(sample_of(frame))

    def put_before(self, samples: Iterable[Sample]) -> None:
        """Take in what was before the oldest sample; what is not older than it is ignored."""
        kept, self._samples = self._samples, []
        oldest = kept[0].unix_ms if kept else None
        for sample in (*(s for s in samples if oldest is None or s.unix_ms < oldest), *kept):
            self._add(sample)

    def _add(self, sample: Sample) -> None:
        samples = self._samples
        if samples and sample.unix_ms <= samples[-1].unix_ms:
            return
        before = samples[-1].high if samples else ()
        if samples and samples[-1].members == sample.members:
            sample = sample._replace(members=samples[-1].members)  # one tuple for all
        high = tuple(
            max(commit or 0, before[group] if group < len(before) else 0)
            for group, (_, _, commit) in enumerate(sample.groups)
        )
        samples.append(sample._replace(high=high))
        if len(samples) > SAMPLES_MAX or (
            len(samples) % 600 == 0 and samples[0].unix_ms < sample.unix_ms - WINDOW_MS
        ):
            keep_from = bisect_left(samples, sample.unix_ms - WINDOW_MS, key=_moment)
            del samples[: max(keep_from, len(samples) - SAMPLES_MAX)]

    def __len__(self) -> int:
        """Return how many samples there are."""
        return len(self._samples)

    @property
    def newest_ms(self) -> int | None:
        """The moment of the newest sample; None if there is none."""
        return self._samples[-1].unix_ms if self._samples else None

    def between(self, start_ms: int, end_ms: int) -> Sequence[Sample]:
        """Return the samples after one moment up to another."""
        first = bisect_right(self._samples, start_ms, key=_moment)
        return self._samples[first : bisect_right(self._samples, end_ms, key=_moment)]

    def at(self, unix_ms: int) -> Sample | None:
        """Return the newest sample at or before a moment."""
        place = bisect_right(self._samples, unix_ms, key=_moment)
        return self._samples[place - 1] if place else None

    def lag(self, commit: int, group: int, unix_ms: int) -> Lag | None:
        """Say how far in time a commit index is behind the group's, as of a moment.

        The leader passed `commit` between two samples: the earlier one bounds the lag from above.
        None if nobody is known to be ahead.
        """
        if group >= GROUPS_KEPT_MAX:
            return None
        end = bisect_right(self._samples, unix_ms, key=_moment)
        place = bisect_right(self._samples, commit, hi=end, key=lambda sample: _high(sample, group))
        if place == end:
            return None
        if place == 0:
            return Lag(unix_ms - self._samples[0].unix_ms, True)
        return Lag(unix_ms - self._samples[place - 1].unix_ms, False)

    def commit_rate(self, group: int, unix_ms: int) -> float | None:
        """Return commits per second of a group over the last second; None while unknown."""
        if group >= GROUPS_KEPT_MAX:
            return None
        return self._rate(unix_ms, lambda sample: _high_or_none(sample, group))

    def commit_rate_of_all(self, unix_ms: int) -> float | None:
        """Return commits per second of all groups together."""
        return self._rate(unix_ms, _high_of_all)

    def _rate(self, unix_ms: int, value: Callable[[Sample], int | None]) -> float | None:
        new, old = self.at(unix_ms), self.at(unix_ms - RATE_WINDOW_MS)
        if new is None or old is None or new.unix_ms <= old.unix_ms:
            return None
        if new.unix_ms < unix_ms - STALE_MS:
            return None  # nothing was reported for a while: nothing is known of that while
        after, before = value(new), value(old)
        if after is None or before is None:
            return None
        return max(0, after - before) * 1000 / (new.unix_ms - old.unix_ms)

    def leaderless_before(self, unix_ms: int, group: int) -> int | None:
        """Return since when nobody led, as of just before a moment; None if somebody did."""
        since = None
        for sample in reversed(self.between(unix_ms - 60_000, unix_ms - 1)):
            if group >= len(sample.groups) or sample.groups[group][0]:
                break
            since = sample.unix_ms
        return since


def _moment(sample: Sample) -> int:
    return sample.unix_ms


def _high(sample: Sample, group: int) -> int:
    return sample.high[group] if group < len(sample.high) else 0


def _high_or_none(sample: Sample, group: int) -> int | None:
    known = group < len(sample.groups) and sample.groups[group][2] is not None
    return sample.high[group] if known else None


def _high_of_all(sample: Sample) -> int | None:
    known = any(commit is not None for _, _, commit in sample.groups)
    return sum(sample.high) if known else None
