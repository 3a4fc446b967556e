"""Disks that fail under a real cluster under load: nothing acknowledged is lost (seed 3, issue 5.4).

Judged from outside: what the client was told against every replica's state. Each fault has to prove
that it took effect; the last tests plant a node that acknowledges before it syncs, and see it caught
by a power cut, and not by a kill.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from cluster.client import Client
from cluster.demo.verify import Findings, verify
from cluster.demo.writer import Plan, Writer
from cluster.exits import CommandError, Exit
from cluster.frames import ClusterFrame, ProcessState
from cluster.local import LocalCluster
from cluster.spec import ClusterSpec
from tests.process.hand import PLANTED
from tests.process.test_kill_all import endless_lines
from wal import Log, LogIdentity, OsFilesystem, SyncPolicy

NODES = 3
WAIT_S = 60.0
ACKS = 200
POLICY = SyncPolicy(segment_bytes=4 << 20, fill_step_bytes=256 << 10)

pytestmark = pytest.mark.timeout(170)


class Load:
    """A cluster, and a client that writes to it as fast as it is answered."""

    def __init__(self, cluster: LocalCluster, client: Client, writer: Writer) -> None:
        self.cluster = cluster
        self.client = client
        self.writer = writer

    def more_acks(self, count: int = ACKS) -> None:
        """Wait until more is acknowledged than was so far."""
        assert self.writer.wait_for_acks(self.writer.acked + count, WAIT_S), "nothing is written"

    def syncs_take_a_while(self) -> None:
        """So that a cut finds something between its write and its sync: else that is microseconds."""
        self.cluster.disk("slow", "all", options={"for_ms": 60_000, "delay_ms": 20})

    def wait(self, condition: Callable[[ClusterFrame], Any], what: str) -> ClusterFrame:
        return self.cluster.wait_for(lambda frame: bool(condition(frame)), WAIT_S, what)

    def follower(self) -> int:
        frame = self.cluster.frame()
        return next(n for n in self.cluster.spec.node_ids if n != frame.leader())

    def events(self, kind: str) -> list[str]:
        return [f"{e.text}: {e.effect}" for e in self.cluster.events() if e.kind == kind]

    def findings(self) -> Findings:
        """Stop writing, wait until all replicas are alike, and compare."""
        assert self.writer.finish(WAIT_S), "puts stayed unanswered"
        self.cluster.wait_for(lambda frame: len(frame.caught_up()) == NODES, WAIT_S)
        nodes = tuple(self.cluster.spec.node_ids)
        return verify(self.client, nodes, self.writer.acknowledged, lambda _: None)

    def nothing_is_lost(self) -> None:
        self.more_acks()
        findings = self.findings()
        assert not findings.lost, sorted(findings.lost)[:5]
        assert not findings.duplicated, sorted(findings.duplicated)[:5]
        assert not findings.phantoms, sorted(findings.phantoms)[:5]
        assert findings.replicas_equal


@contextmanager
def loaded(tmp_path: Path, **changes: Any) -> Iterator[Load]:
    """Three nodes in power-loss mode, unless said otherwise, under load."""
    wanted: dict[str, Any] = {"nodes": NODES, "wal": POLICY, "power_loss": True} | changes
    spec = ClusterSpec(name="disks", data_dir=tmp_path / "data", **wanted)
    with ExitStack() as stack:
        cluster = stack.enter_context(LocalCluster.launch(spec))
        cluster.wait_ready(WAIT_S)
        client = stack.enter_context(Client(cluster.endpoints(), WAIT_S))
        writer = Writer(client, Plan(endless_lines(tmp_path), 1_000_000, 0.0))
        writer.start()
        stack.callback(writer.finish, 0.1)
        yield Load(cluster, client, writer)


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Load]:
    with loaded(tmp_path) as running:
        running.more_acks()
        yield running


def test_nothing_acknowledged_is_lost_when_all_nodes_lose_their_power_at_once(load: Load) -> None:
    for _ in range(3):
        load.syncs_take_a_while()
        load.more_acks()
        cut = load.cluster.disk("powercut", "all")
        assert set(cut.states.values()) == {"killed"}
        load.cluster.start("all")
        load.cluster.wait_ready(WAIT_S)
    told = load.events("power cut")
    assert len(told) == 3 * NODES
    taken = [
        int(size.replace(",", "")) for size in re.findall(r"([\d,]+) unsynced bytes", str(told))
    ]
    assert len(taken) == len(told)
    assert sum(taken) > 0, "every cut came when all was synced: it proved nothing"
    load.nothing_is_lost()


def test_nothing_acknowledged_is_lost_when_the_power_of_the_leader_fails_in_mid_write(
    load: Load,
) -> None:
    sectors = 0
    for seed in range(1, 4):
        load.syncs_take_a_while()
        load.more_acks()
        torn = load.cluster.disk("torn", "leader", seed)
        [note] = torn.notes
        assert f"--seed {seed}" in note
        found = re.search(r"(\d+) of (\d+) unsynced sectors", note)
        assert found, note
        sectors += int(found[2])
        load.cluster.start("down")
        load.cluster.wait_ready(WAIT_S)
    assert sectors > 0, "nothing was ever under way"
    load.nothing_is_lost()


def test_a_strict_node_refuses_its_torn_tail_until_somebody_cuts_it(tmp_path: Path) -> None:
    with loaded(tmp_path, recovery="strict") as load:
        victim, refusal = 0, ""
        for seed in range(1, 30):  # not every cut leaves a part of a write
            load.syncs_take_a_while()
            load.more_acks()
            victim = load.cluster.disk("torn", "leader", seed).nodes[0]
            try:
                load.cluster.start("down")
            except CommandError as error:
                refusal = str(error)
                break
            load.cluster.wait_ready(WAIT_S)
        assert "strict recovery refuses it" in refusal, "no cut left a torn tail"
        process = load.cluster.frame().node(victim).process
        assert (process.state, process.exit_code) == (ProcessState.CRASHED, 65)
        load.more_acks()
        spec = load.cluster.spec
        identity = LogIdentity(bytes.fromhex(spec.cluster_id), victim)
        log, found = Log.open(OsFilesystem(), str(spec.node_dir(victim) / "wal"), identity)
        log.abort()
        assert found.torn is not None
        load.cluster.start("down")
        load.cluster.wait_ready(WAIT_S)
        load.nothing_is_lost()


def test_a_follower_whose_sync_fails_ends_with_74_and_comes_back(load: Load) -> None:
    victim = load.follower()
    load.cluster.disk("fail", f"n{victim}", options={"times": 1})
    frame = load.wait(lambda f: not f.node(victim).process.state.alive, "it lives on")
    process = frame.node(victim).process
    assert (process.state, process.exit_code) == (ProcessState.CRASHED, 74)
    assert any("it bites at the sync" in line for line in process.last_log), process.last_log
    load.more_acks()
    load.cluster.start("down")
    load.cluster.wait_ready(WAIT_S)
    load.nothing_is_lost()


def test_full_disks_refuse_writes_and_take_them_again(load: Load) -> None:
    load.cluster.disk("full", "all", options={"for_ms": 60_000})
    load.wait(lambda f: any(n.snapshot and n.snapshot.wal.disk_full for n in f.nodes), "not full")
    load.wait(lambda _: load.writer.acknowledged.refused, "no write is refused")
    assert any("disk" in text for text in load.writer.acknowledged.refused.values())
    healed = load.cluster.disk("heal", "all")
    assert any("never bit" not in note for note in healed.notes), healed.notes
    load.more_acks()
    load.wait(lambda _: load.events("healed"), "nobody said that it is over")
    load.nothing_is_lost()


def test_a_leader_whose_disk_stalls_makes_room_and_comes_back(load: Load) -> None:
    old = load.cluster.frame().leader()
    load.cluster.disk("stall", "leader", options={"for_ms": 60_000})
    load.wait(lambda f: f.leader() not in (None, old), "nobody else leads")
    load.more_acks()
    load.wait(lambda _: load.events("fault bites"), "nobody said that it took effect")
    [note] = load.cluster.disk("heal", f"n{old}").notes
    assert re.search(r"bit \d+ times?, last at the sync", note), note
    load.nothing_is_lost()


def test_faults_end_in_the_node_by_themselves_and_a_short_write_is_written_again(
    load: Load,
) -> None:
    load.cluster.disk("slow", "all", options={"for_ms": 500, "delay_ms": 20})
    load.wait(lambda _: len(load.events("healed")) == NODES, "it did not end")
    assert all(" hit" in text for text in load.events("healed"))
    before = len(load.events("fault bites"))
    load.cluster.disk("short", "all", 7)
    load.wait(lambda _: len(load.events("fault bites")) == before + NODES, "it never took effect")
    load.nothing_is_lost()


def test_a_node_with_a_flipped_bit_refuses_its_log_until_it_is_repaired(load: Load) -> None:
    victim = load.follower()
    place = {"segment": 1, "offset": 5000, "bit": 3}
    [note] = load.cluster.disk("flip", f"n{victim}", options=place).notes
    assert "segment 00000001.wal, byte 5000 turned over" in note
    load.more_acks()
    load.cluster.disk("powercut", f"n{victim}")
    with pytest.raises(CommandError, match=r"00000001\.wal"):
        load.cluster.start(f"n{victim}")
    process = load.cluster.frame().node(victim).process
    assert (process.state, process.exit_code) == (ProcessState.CRASHED, 65)
    load.more_acks()  # the others do without its vote
    path = load.cluster.spec.node_dir(victim) / "wal" / "00000001.wal"
    with path.open("r+b") as file:
        file.seek(5000)
        [byte] = file.read(1)
        file.seek(5000)
        file.write(bytes([byte ^ 1 << 3]))
    load.cluster.start(f"n{victim}")
    load.cluster.wait_ready(WAIT_S)
    load.nothing_is_lost()


@pytest.mark.parametrize(
    "point",
    [
        "wal.sync.before",
        pytest.param("wal.write.after", marks=pytest.mark.long("faults")),
        pytest.param("wal.sync.after", marks=pytest.mark.long("faults")),
    ],
)
def test_a_leader_killed_at_a_point_of_its_write_path_loses_nothing(load: Load, point: str) -> None:
    old = load.cluster.frame().leader()
    assert old is not None
    load.cluster.disk("at", f"n{old}", options={"point": point, "deed": "kill"})
    frame = load.wait(lambda f: not f.node(old).process.state.alive, "it was never there")
    process = frame.node(old).process
    assert process.signal == signal.SIGKILL
    assert any(f"killed at {point}" in line for line in process.last_log), process.last_log
    load.more_acks()
    load.cluster.start(f"n{old}")
    load.cluster.wait_ready(WAIT_S)
    load.nothing_is_lost()


def test_what_a_cluster_cannot_do_is_refused_in_words(tmp_path: Path) -> None:
    with loaded(tmp_path, power_loss=False, nodes=1) as load:
        for fault in ("powercut", "torn"):
            with pytest.raises(CommandError, match="up --power-loss") as caught:
                load.cluster.disk(fault, "n1")
            assert caught.value.exit_code is Exit.FAILED
        with pytest.raises(CommandError, match="valid are: create, write") as caught:
            load.cluster.disk("slow", "n1", options={"on": "fsync"})
        assert caught.value.exit_code is Exit.USAGE
        assert load.cluster.frame().node(1).process.state is ProcessState.RUNNING


# --- the faults bite: a node that acknowledges before it syncs --------------------------


def early_acks(tmp_path: Path, *, power_loss: bool) -> Findings:
    """End all such nodes at once, in the way that power-loss mode makes a power cut; look after."""
    planted = {"entry_module": "early_ack_node", "entry_paths": (PLANTED,)}
    with loaded(tmp_path, power_loss=power_loss, **planted) as load:
        load.more_acks(5 * ACKS)
        load.cluster.kill("all")
        load.cluster.start("all")
        load.cluster.wait_ready(WAIT_S)
        return load.findings()


def test_a_power_cut_shows_that_a_node_acknowledges_before_it_syncs(tmp_path: Path) -> None:
    assert early_acks(tmp_path, power_loss=True).lost


def test_a_kill_alone_does_not_show_it(tmp_path: Path) -> None:
    """Why power-loss mode exists: the same nodes, the same kill, and nothing is missing."""
    assert not early_acks(tmp_path, power_loss=False).lost


@pytest.mark.long("faults")
@pytest.mark.timeout(1200)
def test_twenty_cuts_of_everything_lose_nothing(load: Load) -> None:
    """Whole and torn by turns, each torn one by a seed of its own."""
    for number in range(20):
        load.syncs_take_a_while()
        load.more_acks()
        if number % 2:
            load.cluster.disk("powercut", "all")
        else:
            load.cluster.disk("torn", "all", number)
        load.cluster.start("all")
        load.cluster.wait_ready(WAIT_S)
    load.nothing_is_lost()
