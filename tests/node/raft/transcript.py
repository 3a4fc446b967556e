"""Scenarios as plain text, after etcd's interaction tests: commands, `----`, what they did.

    cluster N [field=value …]      start N nodes with empty logs; fields of `CoreConfig`
    preload N [terms …] [term=T]   give a node a log of one-entry batches, and restart it
    campaign N · beat N · tick N   at its deadline · after a heartbeat interval · now
    wait MS                        let time pass; nobody is ticked
    propose N WORD … · read N ID   as the leader: one batch per word · a linearizable read
    deliver A>B [KIND] [first|last]   in one turn of B: all that waits, or one; * = any node
    repeat A>B KIND · drop A>B [KIND]   hand over a copy · lose
    persist N [COUNT]              complete storage requests
    settle                         deliver and persist until all is quiet; tells only what changed
    restart N [RECORDS] · isolate N … · heal   of the write in flight only RECORDS survive
    show N …                       log, and on a leader its followers

Places are written index@term. Indented lines are messages that left, `disk` what was asked of it,
and `=` a node's state, where it changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from node.raft.messages import (
    MESSAGE_TYPES,
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    Message,
    NodeBeat,
    PreVote,
    PreVoteReply,
    TimeoutNow,
    Vote,
    VoteReply,
)
from node.raft.types import Batch, BatchMeta, ReadContext
from tests.node.raft.kit import MS, Cluster

KINDS = {kind.__name__: kind for kind in MESSAGE_TYPES.values()}


def batch_text(batch: Batch | BatchMeta) -> str:
    meta = batch.meta if isinstance(batch, Batch) else batch
    return f"{meta.base_index}@{meta.term}"


def message_text(message: Message) -> str:
    return f"{message.sender}>{message.to} {type(message).__name__} t{message.term}" + _rest(
        message
    )


def _rest(message: Message) -> str:
    match message:
        case PreVote() | Vote():
            return f" last {message.last_index}@{message.last_term}"
        case PreVoteReply() | VoteReply():
            return " granted" if message.granted else " refused"
        case Append():
            batches = " ".join(map(batch_text, message.batches)) or "nothing"
            place = f"{message.prev_index}@{message.prev_term}"
            return f" behind {place}: {batches}, commit {message.commit}"
        case AppendReply(ok=True):
            return f" ok {message.index}"
        case AppendReply():
            return f" refused {message.index}, try {message.hint_index}@{message.hint_term}"
        case Heartbeat() | HeartbeatReply():
            return f" commit {message.commit} round {message.round}"
        case TimeoutNow():
            return ""
        case NodeBeat():
            raise AssertionError("of no group")


class Transcript:
    """Runs the commands of one scenario on one cluster."""

    def __init__(self) -> None:
        self.cluster = Cluster(1)
        self.lines: list[str] = []
        self.states: dict[int, str] = {}
        self.grants_told: dict[int, int] = {}

    def run(self, command: str) -> list[str]:
        """Execute one line; return what it did."""
        self.lines = []
        verb, *words = command.split()
        act: Callable[[Sequence[str]], None] = getattr(self, f"do_{verb}")
        act(words)
        self._tell_states()
        return self.lines

    # ---- commands --------------------------------------------------------------------------

    def do_cluster(self, words: Sequence[str]) -> None:
        settings = dict(word.split("=") for word in words[1:])
        self.cluster = Cluster(int(words[0]), **{key: int(val) for key, val in settings.items()})
        self.states, self.grants_told = {}, dict.fromkeys(self.cluster.nodes, 0)

    def do_preload(self, words: Sequence[str]) -> None:
        terms = [int(word) for word in words[1:] if "=" not in word]
        later = [int(word.removeprefix("term=")) for word in words[1:] if "=" in word]
        self.cluster.preload(int(words[0]), terms, max(later, default=None))

    def do_campaign(self, words: Sequence[str]) -> None:
        self._tell(int(words[0]), self.cluster.at_deadline(int(words[0])))

    def do_beat(self, words: Sequence[str]) -> None:
        self.cluster.now += self.cluster.core(1).config.heartbeat_ns
        self.do_tick(words)

    def do_tick(self, words: Sequence[str]) -> None:
        self._tell(int(words[0]), self.cluster.tick(int(words[0])))

    def do_wait(self, words: Sequence[str]) -> None:
        self.cluster.now += int(words[0]) * MS

    def do_propose(self, words: Sequence[str]) -> None:
        for word in words[1:]:
            self._tell(int(words[0]), self.cluster.propose(int(words[0]), word))

    def do_read(self, words: Sequence[str]) -> None:
        number = int(words[0])
        self.cluster.core(number).read(ReadContext(int(words[1])))
        self._tell(number, self.cluster.turn(number))

    def do_deliver(self, words: Sequence[str]) -> None:
        chosen = self._chosen(words)
        for receiver in self.cluster.nodes:
            waiting = [message for message in chosen if message.to == receiver]
            if "first" in words or "last" in words:
                waiting = waiting[:1] if "first" in words else waiting[-1:]
            if waiting:
                self._tell(receiver, self.cluster.deliver(*waiting))

    def do_repeat(self, words: Sequence[str]) -> None:
        message = self._chosen(words)[0]
        self._tell(message.to, self.cluster.step(message))

    def do_drop(self, words: Sequence[str]) -> None:
        for message in self._chosen(words):
            self.cluster.network.remove(message)
            self.lines.append(f"lost: {message_text(message)}")

    def do_persist(self, words: Sequence[str]) -> None:
        counts = [int(word) for word in words[1:]]
        sent = self.cluster.persist(int(words[0]), *counts)
        self._tell(int(words[0]), sent)

    def do_settle(self, words: Sequence[str]) -> None:
        self.cluster.settle()
        for number in self.cluster.nodes:
            self._tell_grants(number)

    def do_restart(self, words: Sequence[str]) -> None:
        self.cluster.crash(*map(int, words))
        self.grants_told[int(words[0])] = 0

    def do_isolate(self, words: Sequence[str]) -> None:
        self.cluster.isolate(*map(int, words))

    def do_heal(self, words: Sequence[str]) -> None:
        self.cluster.heal()

    def do_show(self, words: Sequence[str]) -> None:
        for number in map(int, words):
            core = self.cluster.core(number)
            log = " ".join(map(batch_text, core.log.batches)) or "empty"
            self.lines.append(f"{number}: {log}")
            for peer, progress in core.progress.items():
                self.lines.append(
                    f"   {peer} {progress.state.value} match {progress.match}"
                    f" next {progress.next} in flight {len(progress.inflight)}"
                )

    # ---- telling what happened -----------------------------------------------------------------

    def _chosen(self, words: Sequence[str]) -> list[Message]:
        ends = [None if end == "*" else int(end) for end in words[0].split(">")]
        kinds = [KINDS[word] for word in words[1:] if word in KINDS]
        chosen = self.cluster.between(ends[0], ends[1], kinds[0] if kinds else None)
        assert chosen, f"no such message: {' '.join(words)}"
        return chosen

    def _tell(self, number: int, sent: Sequence[Message]) -> None:
        ready = self.cluster.nodes[number].ready
        stored = []
        if ready.truncate_from is not None:
            stored.append(f"cut from {ready.truncate_from}")
        if ready.append:
            stored.append("append " + " ".join(map(batch_text, ready.append)))
        if ready.hard_state is not None:
            stored.append(f"term {ready.hard_state.term} vote {ready.hard_state.vote}")
        if stored:
            self.lines.append(f"disk {number}: {', '.join(stored)}")
        self.lines += [f"  {message_text(message)}" for message in sent]
        self._tell_grants(number)

    def _tell_grants(self, number: int) -> None:
        grants = self.cluster.nodes[number].grants
        for grant in grants[self.grants_told[number] :]:
            outcome = f"at index {grant.index}" if grant.ok else "refused"
            self.lines.append(f"read {grant.context} on {number}: {outcome}")
        self.grants_told[number] = len(grants)

    def _tell_states(self) -> None:
        for number, core in self.cluster.cores():
            state = (
                f"= {number} {core.role.value} t{core.term} vote {core.vote} leader {core.leader},"
                f" last {core.log.last_index}@{core.log.last_term}"
                f" durable {core.durable_index} commit {core.commit}"
            )
            if self.states.get(number) != state:
                self.lines.append(state)
            self.states[number] = state
