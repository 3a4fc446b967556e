"""What every bench shares: medians, ratios, verdicts, the document (DESIGN §8)."""

import json
import math
import os

import pytest

from cluster.bench.report import (
    BenchReport,
    Ratio,
    commit,
    file_system,
    judge,
    machine,
    median,
    quotient,
)
from cluster.exits import Exit

MACHINE_FACTS = (
    "cpu", "cores", "memory_gib", "kernel", "file_system", "python", "pyzmq", "checksum", "load_before",
)  # fmt: skip


def report_of(*found, rows=({"nodes": 3},)):
    return BenchReport("replication", rows, found, {"cores": 2}, "abc")


@pytest.mark.parametrize(
    ("values", "middle"),
    [([3.0], 3.0), ([5, 1, 3], 3), ([4, 1, 3, 2], 2.5), ([None, 7.0, None], 7.0), ([], None)],
)
def test_a_median_is_of_what_was_measured(values, middle):
    assert median(values) == middle


@pytest.mark.parametrize(
    ("ours", "other", "value"),
    [(1.0, 4.0, 0.25), (None, 4.0, None), (1.0, None, None), (1.0, 0.0, None), (0.0, 4.0, 0.0)],
)
def test_a_quotient_of_unknowns_is_unknown(ours, other, value):
    assert quotient(ours, other) == value


@pytest.mark.parametrize(
    ("value", "goal", "disturbed", "holds"),
    [
        (0.40, 0.40, False, True),
        (0.39, 0.40, False, False),
        (0.39, 0.40, True, None),
        (0.41, 0.40, True, True),
        (None, 0.40, False, None),
        (0.39, None, False, None),
    ],
)
def test_a_ratio_holds_if_it_reaches_its_goal_and_proves_nothing_if_disturbed(
    value, goal, disturbed, holds
):
    ratio = judge("vs", value, goal, disturbed=disturbed)
    assert (ratio.value, ratio.goal, ratio.holds) == (value, goal, holds)


HELD = Ratio("a", 0.5, 0.4, True)
MISSED = Ratio("b", 0.3, 0.4, False)
UNJUDGED = Ratio("c", None, 0.4, None)
TOLD = Ratio("d", 17.0)


@pytest.mark.parametrize(
    ("found", "code"),
    [
        ([HELD, TOLD], Exit.HELD),
        ([TOLD], Exit.HELD),
        ([HELD, MISSED, UNJUDGED], Exit.FAILED),
        ([HELD, UNJUDGED], Exit.UNKNOWN),
    ],
)
def test_the_exit_code_is_that_of_the_goals(found, code):
    assert report_of(*found).exit_code == code


def test_a_bench_without_rows_is_unknown():
    assert report_of(rows=()).exit_code == Exit.UNKNOWN


def test_the_document_is_the_documented_one():
    document = json.loads(json.dumps(report_of(HELD, TOLD).document()))
    assert document == {
        "schema": "raftdeck.bench/1",
        "bench": "replication",
        "commit": "abc",
        "machine": {"cores": 2},
        "rows": [{"nodes": 3}],
        "ratios": [
            {"name": "a", "value": 0.5, "goal": 0.4, "holds": True},
            {"name": "d", "value": 17.0, "goal": None, "holds": None},
        ],
    }


def test_the_text_says_which_goals_hold():
    lines = report_of(HELD, MISSED, UNJUDGED, TOLD).ratio_lines()
    assert lines[0].endswith("0.50  goal 0.40: holds")
    assert lines[1].endswith("0.30  goal 0.40: missed")
    assert lines[2].endswith("–  goal 0.40: unknown")
    assert lines[3].split() == ["d", "17.00"]


def test_the_machine_is_described_by_facts_that_json_carries(tmp_path):
    facts = machine(tmp_path)
    assert tuple(facts) == MACHINE_FACTS
    assert json.loads(json.dumps(facts)) == facts
    assert facts["cores"] == len(os.sched_getaffinity(0))
    assert facts["checksum"] in ("crc32c", "google-crc32c", "crcmod")
    assert math.isfinite(facts["load_before"])


def test_the_file_system_is_that_of_the_directory(tmp_path):
    from pathlib import Path

    assert file_system(Path("/proc")) == "proc"
    assert file_system(tmp_path) not in ("proc", "unknown")


def test_a_commit_or_a_version_is_named():
    named = commit()
    assert named is not None
    word, _, rest = named.partition(" ")
    assert word == "version" or len(word.removesuffix("-dirty")) == 40, rest
