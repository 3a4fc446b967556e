"""One row per change of state, aligned, the same bytes for the same seed."""

from __future__ import annotations

from node.raft.core import Core
from node.raft.types import NodeId, Role

__all__ = ["Trace"]

_GLYPHS = {
    Role.FOLLOWER: "f",
    Role.PRE_CANDIDATE: "p",
    Role.CANDIDATE: "c",
    Role.LEADER: "L",
}
HEAD = "      time  n g r  term vote lead    last  commit applied"


class Trace:
    """Collects rows; costs nothing but a look-up where nothing changed."""

    def __init__(self) -> None:
        """Start with the heading."""
        self.rows: list[str] = [HEAD]
        self._last: dict[tuple[NodeId, int], tuple[object, ...]] = {}

    def note(self, now: int, text: str) -> None:
        """Add a row about the world: a fault, a start, an answer."""
        self.rows.append(f"{_time(now)}  {text}")

    def observe(self, now: int, core: Core, applied: int) -> None:
        """Add a row if a replica changed since its last one."""
        place = (core.config.node, int(core.config.group))
        state = (
            core.role, core.term, core.vote, core.leader, core.log.last_index, core.commit, applied
        )  # fmt: skip
        if self._last.get(place) == state:
            return
        self._last[place] = state
        self.rows.append(
            f"{_time(now)} {place[0]:>2} {place[1]} {_GLYPHS[core.role]}"
            f" {core.term:>5} {core.vote:>4} {core.leader:>4}"
            f" {core.log.last_index:>7} {core.commit:>7} {applied:>7}"
        )

    def text(self) -> str:
        """Return all rows."""
        return "\n".join(self.rows) + "\n"


def _time(now: int) -> str:
    return f"{now / 1e9:>10.6f}"
