"""Where one group's requests go: leader discovery and backoff, without I/O.

Theory of operation. A route knows a leader or guesses one. Guesses come from hints (NOT_LEADER
names a leader) or, without one, from trying the nodes in turn. A guess is *confirmed* by the first
answer that only a leader gives; until then the lane keeps one single request in the air, so that a
full window is not carried around the cluster in search of a leader. Every failure in a row doubles
the wait, up to the ceiling; a hint is followed at once, three times in a row at most, so that two
nodes which name each other do not make a busy loop. There is no randomness: same events, same
choices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cluster.client_types import ClientConfig
from node.client_wire import ReplyOrigin
from node.raft.types import NO_NODE, NO_TERM, NodeId

__all__ = ["Route"]

_HINTS_IN_A_ROW: Final = 3


class Route:
    """The leader of one group as this client knows it; or one pinned node, for local reads."""

    __slots__ = (
        "_config",
        "_failures",
        "_leader",
        "_nodes",
        "_pinned",
        "_rotor",
        "_term",
        "confirmed",
        "heard_at",
        "resume_at",
        "trouble",
    )

    def __init__(
        self, nodes: Sequence[NodeId], config: ClientConfig, pinned: NodeId = NO_NODE
    ) -> None:
        self._nodes = tuple(nodes)
        self._config = config
        self._pinned = pinned
        self._leader = pinned
        self._term = NO_TERM
        self._rotor = 0
        self._failures = 0
        self.confirmed = pinned != NO_NODE
        """Whether the target has answered as a leader since it was chosen."""
        self.heard_at = -1
        """When a leader last answered; -1 = never."""
        self.resume_at = 0
        """Nothing is to be sent before this time."""
        self.trouble = "no answer yet"
        """The latest failure, for a person."""

    @property
    def target(self) -> NodeId:
        """The node to send to: the leader as far as known, else the next one in turn."""
        return self._leader or self._nodes[self._rotor]

    def succeeded(self, node: NodeId, origin: ReplyOrigin, now: int) -> None:
        """`node` answered as a leader does; a late answer of an old leader proves nothing new."""
        if origin.term >= self._term:
            self._term = origin.term
            self._leader = self._pinned or node
            self.confirmed = True
            self.resume_at = 0
        self._failures = 0
        self.heard_at = now

    def busy(self, node: NodeId, origin: ReplyOrigin, now: int) -> None:
        """`node` leads, and wants fewer requests."""
        failures = self._failures
        self.succeeded(node, origin, now)
        self._failures = failures
        self._back_off(now, f"node {node}: busy")

    def refused(self, node: NodeId, origin: ReplyOrigin, now: int) -> None:
        """`node` is not the leader; `origin.leader` is its hint."""
        hint = origin.leader
        known = origin.term >= self._term
        self._term = max(self._term, origin.term)
        if known and hint not in (node, NO_NODE) and hint in self._nodes and not self._pinned:
            if self._leader == hint:
                return  # the second of two requests in flight brings the same news
            self._leader = hint
            self.confirmed = False
            if self._failures < _HINTS_IN_A_ROW:
                self._failures += 1
                self.resume_at = now
                self.trouble = f"node {node}: not the leader, names node {hint}"
                return
            self._back_off(now, f"node {node}: not the leader, names node {hint}")
            return
        self.failed(node, now, "not the leader, and knows none")

    def failed(self, node: NodeId, now: int, reason: str) -> None:
        """`node` could not be reached, was silent, or knows no better."""
        if self.target != node:
            return  # the route has moved on
        if not self._pinned:
            self._leader = NO_NODE
            self._rotor = (self._nodes.index(node) + 1) % len(self._nodes)
            self.confirmed = False
        self._back_off(now, f"node {node}: {reason}")

    def _back_off(self, now: int, trouble: str) -> None:
        wait = self._config.backoff_ns_min << min(self._failures, 32)
        self.resume_at = now + min(wait, self._config.backoff_ns_max)
        self._failures += 1
        self.trouble = trouble
