"""One node whose peers are played by the test: their messages need not be true."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from node.raft.messages import Message, PreVoteReply, VoteReply
from node.raft.types import Batch, HardState, NodeId, Role, Term
from tests.node.raft.kit import (
    GROUP,
    START,
    Disk,
    Node,
    check_locally,
    make_batch,
    make_config,
    make_log,
)


class Lone(Node):
    """Node 1 of a cluster of which nothing else exists."""

    def __init__(
        self,
        voters: int = 3,
        batches: Iterable[Batch] = (),
        *,
        rests: int = False,
        **config: int,
    ) -> None:
        disk = Disk(HardState(), list(batches))
        super().__init__(make_config(1, voters, **config), disk, START, rests=rests)
        self.now = START

    def step(self, *messages: Message) -> list[Message]:
        """Take messages in, in one turn; return what leaves at once."""
        for message in messages:
            self.core.step(message, self.now)
        return self.turn()

    def turn(self) -> list[Message]:
        sent = self.take(self.now)
        check_locally(self)
        return sent

    def sync(self) -> list[Message]:
        """Take turns and complete every storage request; return what leaves."""
        sent = self.turn()
        while self.in_flight:
            sent += self.persist(self.now)
        return sent + self.turn()

    def propose(self, payload: str = "", count: int = 1) -> list[Message]:
        core = self.core
        core.propose(make_batch(core.term, core.log.last_index + 1, count, payload))
        return self.turn()

    def lead(self) -> list[Message]:
        """Win an election by everybody's votes; return the first Appends. The disk is idle."""
        self.now = self.core.next_deadline
        self.core.tick(self.now)
        self.sync()
        self._answer(PreVoteReply, Term(self.core.term + 1))
        self.sync()
        self._answer(VoteReply, self.core.term)
        assert self.core.role is Role.LEADER
        return self.turn()

    def _answer(self, kind: type[PreVoteReply | VoteReply], term: Term) -> None:
        for peer in self.config.voters[1:]:
            self.core.step(kind(GROUP, peer, self.config.node, term, True), self.now)


def make_node(voters: int = 3, term: int = 0, vote_for: int = 0, log: Sequence[int] = ()) -> Node:
    """Node 1 as a follower, with this on its disk; the log's last term if that is later."""
    hard_state = HardState(Term(max(term, *log, 0)), NodeId(vote_for))
    return Node(make_config(1, voters), Disk(hard_state, make_log(log)), START)


def make_candidate(voters: int) -> Node:
    """Node 1 in term 1; its own vote is on its way to the disk."""
    node = make_node(voters)
    core = node.core
    core.tick(core.next_deadline)
    node.take(START)
    for peer in core.config.voters[1 : voters // 2 + 1]:
        core.step(PreVoteReply(GROUP, peer, core.config.node, Term(1), True), START)
    assert core.role is Role.CANDIDATE
    node.take(START)
    return node
