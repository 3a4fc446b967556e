"""Messages as a test writes them: positions are (index, term), batches hold one entry each."""

from __future__ import annotations

from collections.abc import Sequence

from node.raft.messages import (
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    PreVote,
    PreVoteReply,
    TimeoutNow,
    Vote,
    VoteReply,
)
from node.raft.types import Batch, GroupId, Index, NodeId, Term
from tests.node.raft.kit import GROUP, make_batch

Place = tuple[int, int]
"""(index, term), the way a log position is compared."""

Route = tuple[int, int]
"""(sender, receiver)"""


def head(route: Route, term: int) -> tuple[GroupId, NodeId, NodeId, Term]:
    return GROUP, NodeId(route[0]), NodeId(route[1]), Term(term)


def pre_vote(route: Route, term: int, last: Place = (0, 0)) -> PreVote:
    return PreVote(*head(route, term), Index(last[0]), Term(last[1]))


def pre_vote_reply(route: Route, term: int, *, granted: bool) -> PreVoteReply:
    return PreVoteReply(*head(route, term), granted)


def vote(route: Route, term: int, last: Place = (0, 0)) -> Vote:
    return Vote(*head(route, term), Index(last[0]), Term(last[1]))


def vote_reply(route: Route, term: int, *, granted: bool) -> VoteReply:
    return VoteReply(*head(route, term), granted)


def append(
    route: Route, term: int, prev: Place = (0, 0), entries: Sequence[int] = (), commit: int = 0
) -> Append:
    """An Append of one-entry batches of the given terms behind `prev`."""
    batches: tuple[Batch, ...] = tuple(
        make_batch(entry_term, index) for index, entry_term in enumerate(entries, prev[0] + 1)
    )
    place = (Index(prev[0]), Term(prev[1]), Index(commit))
    return Append(*head(route, term), *place, batches)


def ack(route: Route, term: int, index: int) -> AppendReply:
    return AppendReply(*head(route, term), True, Index(index), Index(0), Term(0))


def refusal(route: Route, term: int, index: int, hint: Place = (0, 0)) -> AppendReply:
    return AppendReply(*head(route, term), False, Index(index), Index(hint[0]), Term(hint[1]))


def heartbeat(
    route: Route, term: int, commit: int = 0, number: int = 0, *, rest: bool = False
) -> Heartbeat:
    return Heartbeat(*head(route, term), Index(commit), number, rest=rest)


def heartbeat_reply(
    route: Route,
    term: int,
    number: int = 0,
    commit: int = 0,
    *,
    received: int = 0,
    rest: bool = False,
) -> HeartbeatReply:
    return HeartbeatReply(*head(route, term), number, Index(commit), Index(received), rest)


def timeout_now(route: Route, term: int) -> TimeoutNow:
    return TimeoutNow(*head(route, term))
