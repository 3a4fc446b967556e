"""Many groups on real processes: spread leaders, shared fsyncs, idle groups' logs, fail-over.

`scripts/test --long groups -s` prints the figures: group-writes per fsync and a fail-over table.
"""

from __future__ import annotations

import contextlib
import shutil
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.client import Client
from cluster.client_core import group_of
from cluster.exits import CommandError
from cluster.frames import ClusterFrame
from cluster.local import LocalCluster
from cluster.spec import ClusterSpec
from node.raft.types import HardState
from node.store import stored_groups
from wal import Log, LogIdentity, OpenOptions, OsFilesystem, SyncPolicy

NODES = 3
GROUPS = 64
LED_MIN = 15
"""Groups that each of three nodes leads at least, of 64 that would be 21 or 22."""
TIMEOUT_S = 60.0
FAIL_OVER_S_MAX = 15.0
"""Generous: a busy machine stretches every timeout."""
MIB = 1 << 20
SEGMENTS_MAX = 8
BUSY_SEGMENTS = 20
VALUE_BYTES = 16 << 10


@contextmanager
def running(data_dir: Path, groups: int, segment_bytes: int = 4 * MIB) -> Iterator[LocalCluster]:
    policy = SyncPolicy(segment_bytes=segment_bytes, fill_step_bytes=segment_bytes // 4)
    name = f"groups{groups}"
    spec = ClusterSpec(name=name, data_dir=data_dir, nodes=NODES, groups=groups, wal=policy)
    with LocalCluster.launch(spec) as cluster:
        cluster.wait_ready(TIMEOUT_S)
        yield cluster


def keys_of(groups: int) -> list[bytes]:
    """A key for each group, in their order."""
    found: dict[int, bytes] = {}
    number = 0
    while len(found) < groups:
        key = b"key %d" % number
        found.setdefault(group_of(key, groups), key)
        number += 1
    return [found[group] for group in range(groups)]


def leads(frame: ClusterFrame) -> Counter[int | None]:
    """How many groups each node leads; None: groups without a leader."""
    return Counter(frame.leader(group) for group in range(frame.groups))


def is_spread(frame: ClusterFrame) -> bool:
    counts = leads(frame)
    return all(counts[node] >= frame.groups // NODES * 3 // 4 for node in range(1, NODES + 1))


def fsyncs(frame: ClusterFrame) -> dict[int, int]:
    return {part.node: part.snapshot.wal.fsyncs for part in frame.nodes if part.snapshot}


def writes_per_fsync(cluster: LocalCluster, rounds: int) -> dict[int, float]:
    """Let four clients write to all groups, once each per round; group-writes per fsync of a node.

    A round ends when all its writes are acknowledged, so that none shares a batch with the next.
    """
    keys = keys_of(GROUPS)
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(cluster.endpoints(), TIMEOUT_S)) for _ in range(4)]
        for number, key in enumerate(keys):  # sessions are opened before
            clients[number % 4].put(key, b"first", TIMEOUT_S)
        before = fsyncs(cluster.frame())
        for turn in range(rounds):
            futures = [
                clients[number % 4].put_nowait(key, b"%d" % turn, TIMEOUT_S)
                for number, key in enumerate(keys)
            ]
            for future in futures:
                future.result(TIMEOUT_S)
        after = fsyncs(cluster.frame())
    return {node: rounds * GROUPS / (after[node] - before[node]) for node in before}


def fail_over_s(cluster: LocalCluster) -> float:
    """kill -9 the node that leads most; return the time until every group is led (seconds)."""
    [(victim, _)] = leads(cluster.frame()).most_common(1)
    assert victim is not None
    started = time.monotonic()
    cluster.kill(f"n{victim}")
    frame = cluster.wait_for(
        lambda frame: None not in leads(frame), FAIL_OVER_S_MAX, "groups without a leader"
    )
    taken = time.monotonic() - started
    assert victim not in leads(frame)
    cluster.start(f"n{victim}")
    cluster.wait_ready(TIMEOUT_S)
    return taken


@pytest.mark.timeout(170)
def test_sixty_four_groups_spread_share_their_fsyncs_and_fail_over(tmp_path: Path) -> None:
    with running(tmp_path / "data", GROUPS) as cluster:
        frame = cluster.wait_for(is_spread, TIMEOUT_S, "the leaders are not spread")
        assert min(leads(frame)[node] for node in range(1, NODES + 1)) >= LED_MIN
        assert all(ratio > 1 for ratio in writes_per_fsync(cluster, rounds=5).values())
        assert fail_over_s(cluster) < FAIL_OVER_S_MAX
        with cluster.client() as client:
            for key in keys_of(GROUPS):
                item = client.get(key, TIMEOUT_S).item
                assert item is not None
                assert item.value == b"4"


# ---- one busy group among idle ones ---------------------------------------------------------------


@dataclass(frozen=True)
class Aftermath:
    """What one busy group left behind, and how the nodes' logs looked when all were killed."""

    segments: dict[int, int]
    before: dict[tuple[int, int], HardState]
    stored: dict[tuple[int, int], HardState]
    after: dict[tuple[int, int], HardState]
    """(node, group) → term and vote."""


def hard_states(frame: ClusterFrame) -> dict[tuple[int, int], HardState]:
    return {
        (part.node, group.group): HardState(group.term, group.vote)  # type: ignore[arg-type]  # plain numbers
        for part in frame.nodes
        if part.snapshot is not None
        for group in part.snapshot.groups
    }


def stored_in(spec: ClusterSpec, node: int, copy: Path) -> dict[tuple[int, int], HardState]:
    """What recovery finds in a copy of a dead node's log."""
    shutil.copytree(spec.node_dir(node) / "wal", copy)
    identity = LogIdentity(bytes.fromhex(spec.cluster_id), node)
    log, found = Log.open(OsFilesystem(), str(copy), identity, OpenOptions(spec.wal))
    log.abort()
    return {(node, number): group.hard_state for number, group in stored_groups(found).items()}


@pytest.fixture(scope="module")
def aftermath(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aftermath]:
    """Write 20 segments through one group of 64, kill all nodes, look, and start them again."""
    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory(prefix="rd-") as runtime,
    ):
        patch.setenv("XDG_RUNTIME_DIR", runtime)
        patch.setenv("XDG_STATE_HOME", f"{runtime}/state")
        yield make_aftermath(tmp_path_factory.mktemp("busy"))


def make_aftermath(root: Path) -> Aftermath:
    busy = keys_of(GROUPS)[5]
    value = b"v" * VALUE_BYTES
    with running(root / "data", GROUPS, MIB) as cluster:
        with cluster.client() as client:
            client.put(busy, b"", TIMEOUT_S)
            for _ in range(BUSY_SEGMENTS):
                futures = [
                    client.put_nowait(busy, value, TIMEOUT_S) for _ in range(MIB // VALUE_BYTES)
                ]
                for future in futures:
                    future.result(TIMEOUT_S)
        cluster.wait_for(is_quiet, TIMEOUT_S, "not all groups rest")
        with contextlib.suppress(CommandError):  # judged by a test of its own
            cluster.wait_for(is_small, TIMEOUT_S, "too many segments")
        frame = cluster.frame()
        segments = {part.node: part.snapshot.wal.segments for part in frame.nodes if part.snapshot}
        cluster.kill("all")
        nodes = cluster.spec.node_ids
        stored: dict[tuple[int, int], HardState] = {}
        for node in nodes:
            stored |= stored_in(cluster.spec, node, root / f"copy{node}")
        cluster.start("all")
        after = hard_states(cluster.wait_ready(TIMEOUT_S))
        with cluster.client() as client:
            item = client.get(busy, TIMEOUT_S).item
            assert item is not None
            assert item.value == value
    return Aftermath(segments, hard_states(frame), stored, after)


def is_small(frame: ClusterFrame) -> bool:
    """Whether every node has released what it can."""
    return all(
        part.snapshot is not None and part.snapshot.wal.segments <= SEGMENTS_MAX
        for part in frame.nodes
    )


def is_quiet(frame: ClusterFrame) -> bool:
    """Whether every group rests on every node: nothing changes any more."""
    return all(
        part.snapshot is not None and all(group.resting for group in part.snapshot.groups)
        for part in frame.nodes
    )


@pytest.mark.timeout(170)
def test_terms_and_votes_of_idle_groups_survive_twenty_segments_and_kill_9(
    aftermath: Aftermath,
) -> None:
    assert len(aftermath.before) == NODES * GROUPS
    assert aftermath.stored == aftermath.before
    for place, state in aftermath.after.items():
        old = aftermath.before[place]
        assert state.term >= old.term, f"n{place[0]}, group {place[1]}: its term fell"
        same_term = state.term == old.term and old.vote
        assert not same_term or state.vote == old.vote, f"{place}: it voted twice"


@pytest.mark.timeout(170)
def test_segments_are_released_though_idle_groups_never_write(aftermath: Aftermath) -> None:
    assert max(aftermath.segments.values()) <= SEGMENTS_MAX, aftermath.segments


# ---- figures --------------------------------------------------------------------------------------


@pytest.mark.long("groups")
@pytest.mark.timeout(900)
def test_fail_over_takes_as_long_with_many_groups_as_with_one(tmp_path: Path) -> None:
    """Prints a table: kill -9 to all groups led, with 1, 16 and 64 groups."""
    rounds = 7
    medians: dict[int, float] = {}
    print("\ngroups   median ms   max ms")
    for groups in (1, 16, GROUPS):
        with running(tmp_path / str(groups), groups) as cluster:
            times = [fail_over_s(cluster) for _ in range(rounds)]
        medians[groups] = statistics.median(times)
        print(f"{groups:6d} {medians[groups] * 1e3:11.0f} {max(times) * 1e3:8.0f}")
    assert medians[GROUPS] <= medians[1] + 1.0, "it grows with the number of groups"


@pytest.mark.long("groups")
@pytest.mark.timeout(600)
def test_many_groups_share_one_fsync(tmp_path: Path) -> None:
    """Prints group-writes per fsync of each node, 64 groups, one write per group and round."""
    with running(tmp_path / "data", GROUPS) as cluster:
        cluster.wait_for(is_spread, TIMEOUT_S, "the leaders are not spread")
        ratios = writes_per_fsync(cluster, rounds=200)
    figures = ", ".join(f"n{node} {ratio:.1f}" for node, ratio in sorted(ratios.items()))
    print(f"\ngroup-writes per fsync: {figures}")
    assert min(ratios.values()) > 1
