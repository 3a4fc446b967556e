"""The messages of the protocol, one frozen value each; the table that codec and docs follow.

Every message carries its group, sender, receiver and term. `MESSAGE_TYPES` fixes the wire
number of each type; numbers are never reused.
"""

from __future__ import annotations

from dataclasses import dataclass

from node.raft.types import NO_INDEX, Batch, BatchMeta, GroupId, Index, NodeId, Term

__all__ = [
    "MESSAGE_TYPES",
    "Append",
    "AppendReply",
    "Heartbeat",
    "HeartbeatReply",
    "Message",
    "NodeBeat",
    "PreVote",
    "PreVoteReply",
    "TimeoutNow",
    "Vote",
    "VoteReply",
]


@dataclass(frozen=True, slots=True)
class PreVote:
    """Would you vote for me in `term` (not yet adopted by the sender)? Thesis §9.6."""

    group: GroupId
    sender: NodeId
    to: NodeId
    term: Term
    last_index: Index
    last_term: Term


@dataclass(frozen=True, slots=True)
class PreVoteReply:
    """Granted: `term` is the proposed one. Refused: `term` is the voter's own."""

    group: GroupId
    sender: NodeId
    to: NodeId
    term: Term
    granted: bool


@dataclass(frozen=True, slots=True)
class Vote:
    """RequestVote of Raft §5.2; leaves only after the sender's term and own vote are durable.

    `transfer`: the leader itself asked for this campaign, so nobody stays with it (thesis §4.2.3).
    """

    group: GroupId
    sender: NodeId
    to: NodeId
    term: Term
    last_index: Index
    last_term: Term
    transfer: bool = False


@dataclass(frozen=True, slots=True)
class VoteReply:
    """Leaves only after the voter's term and vote are durable (Raft figure 2)."""

    group: GroupId
    sender: NodeId
    to: NodeId
    term: Term
    granted: bool


@dataclass(frozen=True, slots=True)
class Append:
    """AppendEntries of Raft §5.3, in whole batches; empty `batches` is a probe.

    An outgoing Append names its batches by `BatchMeta`; the runtime resolves their bytes at the
    edge. An incoming one carries full `Batch` values.
    """

    group: GroupId
    sender: NodeId
    to: NodeId
    term: Term
    prev_index: Index
    prev_term: Term
    commit: Index
    batches: tuple[Batch | BatchMeta, ...]


@dataclass(frozen=True, slots=True)
class AppendReply:
    """The answer to an Append (Raft §5.3).

    Accepted: `index` is matched and durable. Refused: `index` is the refused prev_index and
    (`hint_index`, `hint_term`) is a batch end from which the leader may continue.
    """

    group: GroupId
    sender: NodeId
    to: NodeId
    term: Term
    ok: bool
    index: Index
    hint_index: Index
    hint_term: Term


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Keeps the lead.

    `rest` offers to let the group rest (see `node.raft.rest`): all is committed and known.

    `commit` is uncapped (the follower caps it by what it verified); `round` numbers read rounds
    (ReadIndex, thesis §6.4). `release` is the highest index that, as far as the leader knows, no
    voter needs from anybody's log: nobody compacts beyond it.
    """

    group: GroupId
    sender: NodeId
    to: NodeId
    term: Term
    commit: Index
    round: int
    release: Index = NO_INDEX
    rest: bool = False


@dataclass(frozen=True, slots=True)
class HeartbeatReply:
    """Echoes the heartbeat's `round`: the sender still followed this leader in `term` then.

    `commit` is the sender's commit index; one that lags behind its own match tells the leader
    that a restarted follower must be shown again that its log matches. `received` is up to where
    the sender's log, durable or not, is verified against this leader's: that entries arrive.
    `rest` agrees that the group may rest.
    """

    group: GroupId
    sender: NodeId
    to: NodeId
    term: Term
    round: int
    commit: Index
    received: Index = NO_INDEX
    rest: bool = False


@dataclass(frozen=True, slots=True)
class TimeoutNow:
    """Campaign at once: the leader hands its lead to a node that has all it has (thesis §3.10)."""

    group: GroupId
    sender: NodeId
    to: NodeId
    term: Term


@dataclass(frozen=True, slots=True)
class NodeBeat:
    """Says that the sender's process lives: for all its groups, which rest. Of no group.

    `ack` asks for a beat in return. `group` and `term` are 0: every message has them.
    """

    group: GroupId
    sender: NodeId
    to: NodeId
    term: Term
    ack: bool


Message = (
    PreVote
    | PreVoteReply
    | Vote
    | VoteReply
    | Append
    | AppendReply
    | Heartbeat
    | HeartbeatReply
    | NodeBeat
    | TimeoutNow
)

MESSAGE_TYPES: dict[int, type[Message]] = {
    1: PreVote,
    2: PreVoteReply,
    3: Vote,
    4: VoteReply,
    5: Append,
    6: AppendReply,
    7: Heartbeat,
    8: HeartbeatReply,
    9: NodeBeat,
    10: TimeoutNow,
}
"""Wire number → type. The snapshot messages will take 11 and up."""
