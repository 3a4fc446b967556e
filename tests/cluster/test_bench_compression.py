"""`raftdeck bench compression`: what it measures, on little, and what its figures mean."""

import json
import sys

import pytest

from cluster.bench.compression import NOISE, Settings, compression, table
from cluster.cli_bench import compression_command
from cluster.exits import CommandError, Exit
from tests.wal.support import ROOT


def run(tmp_path, source=None, **changes):
    data = tmp_path / "data"
    data.mkdir()
    said: list[str] = []
    settings = Settings(data, source, batch_kib=(64,), rounds=2, megabytes=1, **changes)
    return compression(settings, said.append), said, data


def test_text_shrinks_noise_does_not_and_nothing_is_left_behind(tmp_path):
    (tmp_path / "lines.log").write_text("081109 INFO dfs.DataNode: PacketResponder 1\n" * 500)
    report, said, data = run(tmp_path, tmp_path / "lines.log")
    rows = {(row["input"], row["codec"]): row for row in report.rows}
    assert set(rows) == {
        (name, codec) for name in ("lines.log", NOISE) for codec in ("none", "lz4", "zstd")
    }
    for codec in ("lz4", "zstd"):
        assert rows["lines.log", codec]["stored"] < 0.2
        assert rows["lines.log", codec]["skipped_share"] == 0
        assert rows[NOISE, codec]["stored"] == 1
        assert rows[NOISE, codec]["skipped_share"] == 1
        assert rows["lines.log", codec]["restore_ms_per_mb"] > 0
    assert rows["lines.log", "none"]["stored"] == 1
    assert all(row["mb_per_s"] > 0 for row in report.rows)
    assert {ratio.name: ratio.holds for ratio in report.ratios}["lz4_stored_vs_plain_of_lines.log"]
    assert list(data.iterdir()) == []
    assert len(said) == 2
    document = json.loads(json.dumps(report.document()))
    assert document["bench"] == "compression"
    assert "LEFT PLAIN" in table(report)


def test_without_a_package_its_rows_are_missing_and_the_goals_cannot_be_judged(
    tmp_path, monkeypatch
):
    from wal import compression as codecs

    codecs._functions.cache_clear()
    monkeypatch.setitem(sys.modules, "zstandard", None)
    report, said, _ = run(tmp_path)
    monkeypatch.undo()
    codecs._functions.cache_clear()
    assert {row["codec"] for row in report.rows} == {"none", "lz4"}
    assert any("raftdeck[compression]" in line for line in said)
    assert {ratio.name: ratio.holds for ratio in report.ratios}["zstd_is_installed"] is None
    assert report.exit_code is not Exit.HELD


def test_an_input_without_anything_to_compress_is_a_usage_error(tmp_path):
    (tmp_path / "small").write_bytes(b"x")
    with pytest.raises(CommandError, match="at least 1024 bytes"):
        run(tmp_path, tmp_path / "small")


def test_the_help_says_what_is_measured():
    help_text = compression_command.get_help(compression_command.make_context("x", []))
    assert "raftdeck bench compression --quick" in help_text


def test_real_logs_shrink_to_a_third(tmp_path):
    place = ROOT.parent / "shared" / "data" / "loghub"
    if not place.exists():
        place = ROOT.parents[1] / "shared" / "data" / "loghub"
    if not place.exists():
        pytest.skip("no ../shared/data/loghub beside this checkout")
    report, _, _ = run(tmp_path, place)
    stored = {row["codec"]: row["stored"] for row in report.rows if row["input"] == "loghub"}
    assert stored["zstd"] < stored["lz4"] < 1 / 3
