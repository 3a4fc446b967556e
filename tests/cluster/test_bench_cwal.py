"""`raftdeck bench cwal`: the rows, and what they must agree with."""

import json

from cluster.bench.cwal import VARIANTS, Settings, cwal, table
from cluster.cli_bench import cwal_command

ENTRIES = 60


def test_every_variant_is_measured_and_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("cluster.bench.cwal.ENTRIES", ENTRIES)
    report = cwal(Settings(tmp_path, rounds=1, read_megabytes=2), lambda text: None)
    rows = {row["what"]: row for row in report.rows}
    assert len(rows) == len(VARIANTS) + 3
    assert rows["no sync"]["syncs"] == 0
    assert rows["sync per entry"]["syncs"] == ENTRIES
    assert rows["sync per 10"]["syncs"] == ENTRIES // 10
    assert rows["overwrite 31, sync per entry"]["syncs"] == ENTRIES
    assert 1 <= rows["asynchronous"]["syncs"] < ENTRIES
    assert all(row["us_per_entry"] > 0 for row in report.rows)
    assert list(tmp_path.iterdir()) == []
    assert json.loads(json.dumps(report.document()))["bench"] == "cwal"
    assert "SEED 4" in table(report)
    names = {ratio.name: ratio.value for ratio in report.ratios}
    assert names["sync_cost_in_seed_4"] == 36.7114, "not 35 %: 3,571 % more"


def test_the_help_has_an_example():
    text = cwal_command.get_help(cwal_command.make_context("x", []))
    assert "raftdeck bench cwal --quick" in text
