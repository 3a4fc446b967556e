"""The dashboard bench without processes: its arithmetic, its rows, its limits, its command line."""

import json
import random
from dataclasses import replace

import pytest

from cluster.bench.dashboard import (
    PerOperation,
    change,
    compared,
    note_of,
    per_operation,
    quantile,
    ratios,
    table,
)
from cluster.bench.paced import Pace, Paced
from cluster.bench.registry import BENCHES
from cluster.bench.report import BenchReport, limit
from cluster.bench.screens import Marker
from cluster.bench.stage import Reading, busy_seconds
from cluster.cli import main
from cluster.exits import Exit

READING = Reading(
    at_s=10.0, frames=1_000, bytes=50_000, admin_frames=100, term=2, nodes_cpu_s=4.0,
    watched_cpu_s=1.0, own_cpu_s=6.0, busy_s=8.0, rss_bytes=1,
)  # fmt: skip
WATCHED = {
    "nodes": 11, "ops_per_s": 5_000.0, "cpu_of_one_core": 0.08, "kB_per_s": 35.0,
    "key_echo_p50_ms": 9.0, "key_echo_p99_ms": 30.0, "rss_mb_start": 50.0, "rss_mb_end": 51.0,
    "elections": 0, "note": None,
}  # fmt: skip


def rows(**changed):
    cost = PerOperation(frames=2.0, bytes=1_000.0, cpu_us=50.0, admin_frames=0.1)
    dearer = replace(cost, frames=2.2, cpu_us=51.0)
    third = compared({"without": [cost], "with": [dearer]}, 11) | {"elections": 0, "note": None}
    return [
        {"case": "half_load"} | WATCHED | changed,
        {"case": "full_load"} | WATCHED | changed,
        third,
    ]


def by_name(found):
    return {ratio.name: ratio for ratio in found}


def test_the_quantile_is_one_of_the_values():
    values = [float(value) for value in range(1, 101)]
    random.Random(1).shuffle(values)
    assert quantile(values, 0.5) == 50.0
    assert quantile(values, 0.99) == 99.0
    assert quantile(values[:1], 0.99) == values[0]
    assert quantile([], 0.99) is None


def test_a_change_is_that_of_the_medians():
    assert change([1.0, 2.0, 9.0], [2.2, 0.1, 30.0]) == pytest.approx(0.1)
    assert change([], [1.0]) is None
    assert change([0.0], [1.0]) is None


def test_costs_are_per_acknowledged_put():
    after = replace(READING, frames=3_000, bytes=150_000, admin_frames=200, nodes_cpu_s=5.0)
    assert per_operation(READING, after, 1_000) == PerOperation(2.0, 100.0, 1_000.0, 0.1)


def test_others_are_what_the_bench_did_not_use():
    after = replace(READING, at_s=12.0, own_cpu_s=8.0, busy_s=11.0)
    assert after.others_since(READING) == pytest.approx(0.5)
    assert replace(after, busy_s=9.0).others_since(READING) == 0.0
    assert busy_seconds("cpu  100 20 30 4000 50 6 7 8 0 0") == pytest.approx(1.63)


def test_a_limit_holds_from_below():
    assert limit("x", 0.1, 0.1).holds is True
    assert limit("x", 0.2, 0.1).holds is False
    assert limit("x", 0.2, 0.1, disturbed=True).holds is None
    assert limit("x", 0.05, 0.1, disturbed=True).holds is True
    assert limit("x", None, 0.1).holds is None


def test_every_limit_is_in_the_document():
    found = by_name(ratios(rows()))
    assert {name: (ratio.goal, ratio.holds) for name, ratio in found.items()} == {
        "cpu_of_one_core": (0.10, True),
        "kB_per_s": (60.0, True),
        "key_echo_p99_ms": (50.0, True),
        "key_echo_p99_ms_full_load": (120.0, True),
        "nodes_frames_per_op_change": (0.03, False),
        "nodes_bytes_per_op_change": (0.03, True),
        "nodes_cpu_per_op_change": (0.03, True),
    }
    report = BenchReport("dashboard", rows(), list(found.values()))
    document = json.loads(json.dumps(report.document()))
    assert [row["case"] for row in document["rows"]] == [
        "half_load", "full_load", "five_dashboards",
    ]  # fmt: skip
    assert all(set(each) == {"name", "value", "goal", "holds"} for each in document["ratios"])
    assert report.exit_code == Exit.FAILED
    assert report.ratio_lines()[0].endswith("0.08  goal ≤ 0.10: holds")
    assert "5 dashboards" in table(report)


def test_beside_other_work_a_missed_time_proves_nothing_but_bytes_count():
    late = rows(key_echo_p99_ms=900.0, kB_per_s=90.0, note=note_of(0.8, 0, 0, 0))
    found = by_name(ratios(late))
    assert found["key_echo_p99_ms"].holds is None
    assert found["kB_per_s"].holds is False


def test_the_note_says_what_disturbed():
    assert note_of(0.1, 0, 0, 0) is None
    text = note_of(0.5, 1, 20, 0)
    assert text == "0.50 cores busy with other things; 1 elections; 20 puts skipped"


def test_the_marker_is_followed_over_split_reads():
    marker = Marker()
    row = "\x1b[6;1H\x1b[0;38;2;1;2;3m│\x1b[38;2;4;5;6m▸  2 follow".encode()
    assert not marker.take(row[:20])
    assert marker.take(row[20:])
    assert marker.line == 6
    assert not marker.take(row)
    assert not marker.take("\x1b[1;9H LIVE ▸ \x1b[20;1H│○ n1  ▸".encode())
    assert marker.take("\x1b[6;2H\x1b[0m  \x1b[7;2H\x1b[0;1m▸ ".encode())
    assert marker.line == 7


def test_bulks_are_due_at_their_rate_however_late_one_asks():
    pace = Pace(10.0, 100.0)
    assert pace.due(100.05) == 0
    assert pace.next_at() == pytest.approx(100.1)
    assert pace.due(100.35) == 3
    assert pace.due(100.35) == 0
    assert pace.next_at() == pytest.approx(100.4)
    assert Paced(1.0).bulk == 250


def test_the_bench_is_on_the_command_line(capsys):
    assert "dashboard" in BENCHES
    assert main(["bench", "dashboard", "--help"]) == 0
    assert "--quick" in capsys.readouterr().out
