"""What a real cluster's supervisor saw: effects that were measured, and the recording of it."""

import re

from cluster.local import LocalCluster
from cluster.recording import Recording
from cluster.replay import narrate
from cluster.spec import ClusterSpec
from tests.process.hand import SMALL


def launch(data_dir, **changes):
    spec = ClusterSpec(name="rec", data_dir=data_dir, nodes=3, wal=SMALL, **changes)
    return LocalCluster.launch(spec)


def test_a_killed_leader_is_told_with_cause_and_effect_and_is_recorded(tmp_path):
    with launch(tmp_path / "data") as cluster:
        first = cluster.wait_ready().leader()
        with cluster.client() as client:
            for number in range(50):
                client.put(b"key", b"%d" % number)
        with cluster.as_step("1: the leader dies"):
            cluster.kill("leader")
        frame = cluster.wait_for(lambda frame: frame.leader() not in (None, first), 20)
        second = frame.leader()
        cluster.start(f"n{first}")
        frame = cluster.wait_for(lambda frame: len(frame.caught_up()) == 3, 20)
        events = cluster.events()
    told = {(event.kind, event.node): event for event in events}
    killed, led = told["killed", first], told["leader", second]
    recovered = told["recovered", first]
    assert (killed.step, killed.effect) == ("1: the leader dies", "exit -9 · leader lost")
    gap = re.match(r"(\d+) ms leaderless", led.effect)
    assert gap, led
    assert 0 < int(gap[1]) <= led.unix_ms - killed.unix_ms + 2
    assert led.cause == "system"
    assert re.fullmatch(r"[\d,]+ frames in \d+ ms( · torn tail .*)?", recovered.effect)

    state = frame.node(second).group(0)
    assert len(state.log) >= 4, "the log tells of two terms at least"
    assert state.log[-1] == state.term
    links = frame.node(second).snapshot.links
    assert len(links) == 2
    assert all(0 <= link.heard_ago_ns < 5e9 and 0 < link.rtt_ns < 5e9 for link in links), links
    wal = frame.node(second).snapshot.wal
    assert sum(wal.sync_entries) == sum(wal.sync_latency_us) == wal.fsyncs
    assert 0 < wal.durable_position <= wal.head_position

    with Recording.open(tmp_path / "data") as recording:
        kept = recording.events()
        assert kept[: len(events)] == events
        assert kept[-1].kind in ("stopped", "down")
        later = recording.frames(killed.unix_ms, led.unix_ms + 60_000)
        past = next(frame for frame in later if killed in frame.events)
        assert past.node(first).process.state.value == "killed", (
            "the first frame that tells it shows it"
        )
        latest = recording.latest()
        assert latest is not None
        assert latest.unix_ms >= kept[-1].unix_ms
        lines = [line for _, line in narrate(recording.frames_since(0), kept)]
        assert sum("by step 1: the leader dies → exit -9" in line for line in lines) == 1


def test_without_a_recorder_nothing_is_written_and_all_else_is_the_same(tmp_path):
    with launch(tmp_path / "data", recording_bytes=0) as cluster:
        cluster.wait_ready()
        stream = cluster.stream()
        frame = stream.newest(5)
        assert frame is not None
        assert frame.recording is False
        stream.close()
    assert not (tmp_path / "data" / "recording").exists()


def test_a_recording_that_cannot_be_written_does_not_hurt_the_cluster(tmp_path):
    data = tmp_path / "data"
    with launch(data) as cluster:
        cluster.wait_ready()
    for path in (data / "recording").iterdir():
        path.unlink()
    (data / "recording").rmdir()
    (data / "recording").write_text("not a directory")
    spec = cluster.spec
    with LocalCluster.launch(spec) as again:
        again.wait_ready()
        stream = again.stream()
        for _ in range(5):
            assert stream.newest(5) is not None
        stream.close()
        told = [event.text for event in again.events() if event.kind == "recorder"]
        assert len(told) == 1
        assert "not recorded: " in told[0]
        assert again.frame().recording is False
        with again.client() as client:
            client.put(b"key", b"value")
