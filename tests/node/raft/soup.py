"""Random acts on a small cluster: what a hostile network, disk and operator can do.

`play` turns whole numbers into acts, so that Hypothesis can shrink a run that broke something.
Each act ends with the kit's checks; `recover` then heals everything and expects progress.
"""

from __future__ import annotations

from collections.abc import Iterable

from node.raft.messages import Message
from node.raft.types import ReadContext, Role
from tests.node.raft.kit import MS, Cluster

NETWORK_MAX = 60
"""Beyond it the oldest messages are lost, so that a run stays small."""

ACTS = 19

Choice = tuple[int, int, int]
"""(which act, which node, a free number)"""


def play(cluster: Cluster, choices: Iterable[Choice]) -> None:
    """Do one act per choice."""
    for context, (act, pick, number) in enumerate(choices, 1):
        node = pick % len(cluster.nodes) + 1
        _do(cluster, act % ACTS, node, number, context)
        del cluster.network[:-NETWORK_MAX]


def _do(cluster: Cluster, act: int, node: int, number: int, context: int) -> None:
    core = cluster.core(node)
    match act:
        case 0 | 1 | 2 | 3:  # one message, mostly not in order
            if cluster.network:
                cluster.deliver(cluster.network[number % len(cluster.network)])
        case 4 | 5:  # all that waits for a node, in one turn
            waiting = cluster.between(to=node)
            if waiting:
                cluster.deliver(*waiting)
        case 6:  # lost, or sent twice
            if cluster.network:
                message: Message = cluster.network[number % len(cluster.network)]
                if number % 2:
                    cluster.network.remove(message)
                else:
                    cluster.step(message)
        case 7 | 8:
            cluster.persist(node, min(1, len(cluster.nodes[node].in_flight)))
        case 9:
            cluster.persist(node)
        case 10:  # a timer fires early or late: clocks differ
            cluster.now += number % 40 * MS
            cluster.tick(node)
        case 11:
            cluster.at_deadline(node)
        case 12 | 13:
            if core.role is Role.LEADER and core.accepts(100):
                cluster.propose(node, str(context), number % 3 + 1)
        case 14:
            if number % 4 == 0:
                cluster.crash(node, torn_records=number // 4 % 4)
            elif number % 4 == 1:
                cluster.isolate(node)
            elif number % 4 == 2:
                cluster.heal()
            else:
                core.forget_leader(cluster.now, number % 30 * MS)
        case 15 | 16:  # a calm moment
            for other in cluster.nodes:
                waiting = cluster.between(to=other)
                if waiting:
                    cluster.deliver(*waiting)
                cluster.persist(other)
        case 17:  # time enough to rest, for those who can
            if number % 3 == 0:
                cluster.run(400 * MS)
        case _:
            core.read(ReadContext(context))
            core.wake(cluster.now)
            if number % 2:
                core.extend_election_timer(cluster.now, number % 300 * MS)
            cluster.turn(node)


def recover(cluster: Cluster) -> None:
    """Heal everything: within two seconds there is one leader, and a new entry reaches all."""
    cluster.heal()
    cluster.settle()
    for _ in range(20):
        cluster.run(100 * MS)
        if cluster.leader() is not None:
            break
    leader = cluster.leader()
    assert leader is not None, "no leader within two seconds of peace"
    cluster.propose(leader, "peace")
    cluster.settle()
    cluster.run(400 * MS)
    leader = cluster.leader()
    assert leader is not None
    last = cluster.core(leader).log.last_index
    for number, core in cluster.cores():
        assert core.commit == core.log.last_index == last, f"{number} did not catch up"
        assert core.leader == leader
