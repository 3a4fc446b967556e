"""Election rules as pure functions: timeouts, up-to-dateness, and who may have a vote."""

from __future__ import annotations

from dataclasses import dataclass

from node.raft.log_view import LogView
from node.raft.types import CoreConfig, HardState, Index, NodeId, Term

__all__ = [
    "Timeouts",
    "draw_below",
    "election_timeout_ns",
    "forget_delay_ns",
    "is_up_to_date",
    "may_grant_vote",
    "timeouts_in_force",
]

_MASK = (1 << 64) - 1
_FORGET_STREAM = 1 << 20
_LAG_FACTOR = 10
"""A timeout is at least so many times the lag of the loop: with many nodes on few cores the
scheduler's jitter, not the network, is what delays a heartbeat."""
_STRETCHED_NS_MAX = 2_000_000_000


@dataclass(frozen=True, slots=True)
class Timeouts:
    """The range that election timeouts are drawn from (ns)."""

    low: int
    high: int


def timeouts_in_force(config: CoreConfig, lag_ns: int) -> Timeouts:
    """Return the configured range, or one stretched to 10 × `lag_ns`, with 2 s as its end.

    `lag_ns` is the 99th percentile of the turn loop's lag. The range keeps its proportions; one
    that is configured beyond the cap stays as it is.
    """
    low, high = config.election_ns_min, config.election_ns_max
    wanted = min(_LAG_FACTOR * lag_ns, _STRETCHED_NS_MAX * low // high)
    if wanted <= low:
        return Timeouts(low, high)
    return Timeouts(wanted, high * wanted // low)


def draw_below(bound: int, seed: int, stream: int, number: int) -> int:
    """Return the `number`-th draw in [0, `bound`) of a stream, by hashing the counter.

    SplitMix64's finaliser over (seed, stream, number). A draw depends on nothing but its
    arguments, so that removing one event from a schedule leaves all other draws as they were.
    """
    value = (seed + 0x9E3779B97F4A7C15 * (stream + 1) + 0xD1B54A32D192ED03 * (number + 1)) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return (value ^ (value >> 31)) % bound


def election_timeout_ns(config: CoreConfig, timeouts: Timeouts, number: int) -> int:
    """Return a timeout within `timeouts` (Raft §5.2: randomised), in the part of our rank."""
    spread = timeouts.high - timeouts.low
    return timeouts.low + _draw_in_part(config, spread, config.node, number)


def forget_delay_ns(config: CoreConfig, number: int, jitter_ns: int) -> int:
    """Return a delay in [0, `jitter_ns`] before the campaign against a dead leader.

    Where ranks tell the nodes apart, chance is not needed: all groups of one rank campaign in one
    turn then, with one frame per peer and one fsync for all their votes.
    """
    if config.ranks > 1:
        return jitter_ns * config.rank // config.ranks
    return _draw_in_part(config, jitter_ns, _FORGET_STREAM + config.node, number)


def _draw_in_part(config: CoreConfig, spread: int, stream: int, number: int) -> int:
    start = spread * config.rank // config.ranks
    end = spread * (config.rank + 1) // config.ranks
    return start + draw_below(end - start + 1, config.seed, stream, number)


def is_up_to_date(log: LogView, last_index: Index, last_term: Term) -> bool:
    """Tell whether a candidate's log is at least as up to date as ours (Raft §5.4.1).

    Compared as the pair (last term, last index), never by index alone.
    """
    return (last_term, last_index) >= (log.last_term, log.last_index)


def may_grant_vote(hard_state: HardState, candidate: NodeId, *, leader_known: bool) -> bool:
    """Tell whether the one vote of this term is free for, or already with, `candidate`."""
    if hard_state.vote == candidate:
        return True
    return hard_state.vote == 0 and not leader_known
