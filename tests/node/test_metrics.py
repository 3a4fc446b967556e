import json
import random
from dataclasses import fields, is_dataclass, replace

import msgpack
import pytest

from node.metrics import (
    CATALOGUE,
    CompressionSnapshot,
    Counters,
    GroupSnapshot,
    LaneSnapshot,
    LinkSnapshot,
    NodeSnapshot,
    PeerSnapshot,
    QuantileWindow,
    SnapshotError,
    TrafficSnapshot,
    WalSnapshot,
    metric,
    samples,
)

SECTIONS = {
    "node": NodeSnapshot,
    "group": GroupSnapshot,
    "peer": PeerSnapshot,
    "link": LinkSnapshot,
    "wal": WalSnapshot,
    "lane": LaneSnapshot,
    "traffic": TrafficSnapshot,
    "compression": CompressionSnapshot,
}
NOT_METRICS = {
    ("node", "node"), ("node", "pid"), ("group", "group"), ("group", "role"), ("peer", "node"),
    ("peer", "state"), ("lane", "lane"), ("link", "node"),
    ("compression", "codec"),
}  # fmt: skip

SNAPSHOT = NodeSnapshot(
    node=1,
    incarnation=77,
    pid=4711,
    uptime_ns=10**9,
    groups=(
        GroupSnapshot(
            0,
            "leader",
            3,
            1,
            1,
            20,
            19,
            18,
            20,
            2,
            peers=(PeerSnapshot(2, 19, 21, "replicate"),),
            votes=(1, 2),
        ),
    ),
    wal=WalSnapshot(fsyncs=4, entries=100, bytes_written=4096, fsync_p50_ns=100_000),
    traffic=TrafficSnapshot(lanes=(LaneSnapshot("data", 1, 2, 3, 4),), dropped=5, acks=6),
    loop_lag_p99_ns=9,
    links=(LinkSnapshot(2, 10, 20),),
    compression=CompressionSnapshot("zstd", 1, 2, 300, 100, 5, 6),
)


def test_a_snapshot_survives_msgpack_and_json():
    packed = msgpack.unpackb(msgpack.packb(SNAPSHOT.encode()))
    assert NodeSnapshot.decode(packed) == SNAPSHOT
    assert NodeSnapshot.decode(json.loads(json.dumps(SNAPSHOT.encode()))) == SNAPSHOT


def test_every_number_in_a_snapshot_is_declared_and_every_declaration_has_its_number():
    declared = {(spec.section, spec.field) for spec in CATALOGUE}
    present = {
        (section, spec.name)
        for section, kind in SECTIONS.items()
        for spec in fields(kind)
        if spec.name not in ("groups", "peers", "wal", "traffic", "lanes", "links", "compression")
        and spec.type != "tuple[int, ...]"
    }
    assert all(is_dataclass(kind) for kind in SECTIONS.values())
    assert declared == present - NOT_METRICS
    assert len({spec.name for spec in CATALOGUE}) == len(CATALOGUE) == len(declared)


def test_names_end_in_their_unit():
    units = (
        "_total",
        "_ns",
        "_bytes",
        "_index",
        "_node",
        "_count",
        "_bool",
        "_term",
        "_incarnation",
    )
    for spec in CATALOGUE:
        assert spec.name.endswith(units), spec.name
        assert (spec.kind == "counter") == spec.name.endswith("_total"), spec.name
        assert spec.help.endswith("."), spec.name


def test_samples_carry_the_labels_that_were_declared():
    seen = list(samples(SNAPSHOT))
    assert {spec.name for spec, _, _ in seen} == {spec.name for spec in CATALOGUE}
    for spec, labels, _ in seen:
        assert tuple(labels) == spec.labels
    values = {spec.name: value for spec, _, value in seen}
    assert values["wal_fsyncs_total"] == 4
    assert values["raft_peer_match_index"] == 19


@pytest.mark.parametrize(
    "edit",
    [
        lambda d: d.pop("incarnation"),
        lambda d: d.update(node="1"),
        lambda d: d.update(node=True),
        lambda d: d.update(groups={}),
        lambda d: d.update(groups=[{}] * 1025),
        lambda d: d.update(groups=[7]),
        lambda d: d["groups"][0].update(role="x" * 65),
        lambda d: d["groups"][0].pop("term"),
        lambda d: d["groups"][0].update(log=[1, "2"]),
        lambda d: d["groups"][0].update(log=[1] * 65),
        lambda d: d.update(links=[{}]),
        lambda d: d["groups"][0].update(peers=[{"node": 2}]),
        lambda d: d.update(wal=None),
        lambda d: d["wal"].update(disk_full=1),
        lambda d: d["traffic"].update(lanes=[{}]),
    ],
)
def test_a_malformed_snapshot_is_refused(edit):
    document = msgpack.unpackb(msgpack.packb(SNAPSHOT.encode()))
    edit(document)
    with pytest.raises(SnapshotError):
        NodeSnapshot.decode(document)


def test_neighbouring_versions_understand_each_other():
    document = SNAPSHOT.encode() | {"of_tomorrow": {"a": 1}}
    assert NodeSnapshot.decode(document) == SNAPSHOT
    del document["loop_lag_p99_ns"]
    assert NodeSnapshot.decode(document) == replace(SNAPSHOT, loop_lag_p99_ns=0)


def test_an_unknown_metric_is_a_programming_error():
    counters = Counters()
    for wrong in (
        lambda: metric("raft_mood"),
        lambda: counters.add("frames_lost_total"),
        lambda: counters.add("raft_term"),
        lambda: counters.add("frames_dropped_total", lane="data"),
        lambda: counters.add("lane_sent_bytes_total"),
    ):
        with pytest.raises(AssertionError):
            wrong()


def test_counters_become_the_traffic_section():
    counters = Counters()
    counters.add("client_requests_total")
    counters.add("client_operations_acked_total", 40)
    counters.add("lane_sent_bytes_total", 100, lane="data")
    assert counters.traffic(("control", "data")) == TrafficSnapshot(
        lanes=(LaneSnapshot("control"), LaneSnapshot("data", bytes_out=100)),
        client_requests=1,
        acks=40,
    )


def test_a_window_knows_the_exact_quantiles_of_its_last_values():
    rng = random.Random(5)
    window = QuantileWindow(50)
    assert window.quantile(0.5) == 0
    values = [rng.randrange(20) for _ in range(500)]
    for count, value in enumerate(values, start=1):
        window.add(value)
        recent = sorted(values[max(0, count - 50) : count])
        for fraction in (0.0, 0.5, 0.99, 1.0):
            expected = recent[min(len(recent) - 1, int(fraction * len(recent)))]
            assert window.quantile(fraction) == expected
