"""The replication bench without processes: turns, rows, ratios, its command line; the bare pipe's parts."""

import ast
import json
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import zmq

from cluster.bench import bare_pipe
from cluster.bench.contestants import Case, Sample
from cluster.bench.driver import client_config
from cluster.bench.registry import BENCHES
from cluster.bench.replication import (
    LARGE,
    SINGLE,
    SMALL,
    Settings,
    ratios,
    replication,
    row,
    table,
    take_turns,
)
from cluster.bench.report import BenchReport
from cluster.cli import main
from cluster.exits import CommandError, Exit
from node.limits import REPLIES_PER_SESSION_MAX

PACKAGES = {"cluster", "node", "wal", "dashboard"}


def sample(ops_per_s=100.0, **changed):
    measured = Sample(
        acked=50, ops_per_s=ops_per_s, mb_per_s=ops_per_s / 1000, p50_ms=2.0, p99_ms=9.0,
        entries_per_fsync=20.0, fsyncs_per_s=5.0, wal_mb_per_s=1.0, cpu_leader=90.0,
        cpu_follower=40.0, cpu_client=30.0,
    )  # fmt: skip
    return replace(measured, **changed)


class FakeSide:
    """Answers with the samples given, and notes when it was asked."""

    def __init__(self, name, calls, rates):
        self._name = name
        self._calls = calls
        self._rates = iter(rates)

    def measure(self, case, seconds):
        self._calls.append((self._name, case.name, seconds))
        return sample(next(self._rates))


def turns(rounds, ours, bare):
    calls: list[tuple[str, str, float]] = []
    said: list[str] = []
    sides = {"ours": FakeSide("ours", calls, ours), "bare_pipe": FakeSide("bare", calls, bare)}
    settings = Settings(Path("/nowhere"), rounds=rounds, seconds=0.25)
    return take_turns(sides, settings, SMALL, said.append), calls, said


# --- turns, rows, ratios --------------------------------------------------------------


def test_the_sides_take_turns_round_by_round():
    samples, calls, said = turns(3, [1, 2, 3], [10, 20, 30])
    assert [name for name, _, _ in calls] == ["ours", "bare"] * 3
    assert {(case, seconds) for _, case, seconds in calls} == {(SMALL.name, 0.25)}
    assert [s.ops_per_s for s in samples["ours"]] == [1, 2, 3]
    assert [s.ops_per_s for s in samples["bare_pipe"]] == [10, 20, 30]
    assert len(said) == 3
    assert "round 3 of 3" in said[-1]


def test_a_row_holds_the_medians_of_both_sides():
    samples, _, _ = turns(5, [5, 1, 4, 2, 3], [50, 10, 40, 20, 30])
    found = row(3, SMALL, samples)
    assert found["ours"]["ops_per_s"] == 3
    assert found["bare_pipe"]["ops_per_s"] == 30
    assert found["ours"]["ops_per_s_rounds"] == [5, 1, 4, 2, 3]
    assert (found["nodes"], found["rounds"], found["note"]) == (3, 5, None)
    assert json.loads(json.dumps(found)) == found


def test_what_disturbed_us_stands_in_the_row():
    disturbed = [sample(elections=1), sample(), sample(errors=2, error="no answer")]
    found = row(3, SMALL, {"ours": disturbed, "bare_pipe": [sample()]})
    assert (found["elections"], found["errors"]) == (1, 2)
    assert found["note"] == "1 elections; 2 puts failed: no answer"


def rows_of(nodes=3, ours=50.0, bare=100.0, **changed):
    samples = {"ours": [sample(ours, **changed)], "bare_pipe": [sample(bare, p50_ms=1.0)]}
    return [row(nodes, case, samples) for case in (SMALL, SINGLE, LARGE)]


def test_the_ratios_of_three_nodes_have_the_goals():
    found = {ratio.name: ratio for ratio in ratios([*rows_of(), *rows_of(11)[:1]])}
    assert list(found) == [
        "vs_bare_pipe_ops_3",
        "bare_pipe_ops_per_s_3",
        "vs_bare_pipe_latency_3",
        "vs_bare_pipe_bytes_3",
        "bare_pipe_MB_per_s_3",
        "vs_bare_pipe_ops_11",
        "bare_pipe_ops_per_s_11",
    ]
    goals = {name: ratio.goal for name, ratio in found.items() if ratio.goal is not None}
    assert goals == {"vs_bare_pipe_ops_3": 0.40, "vs_bare_pipe_bytes_3": 0.40}
    assert found["vs_bare_pipe_ops_3"].value == 0.5
    assert found["vs_bare_pipe_ops_3"].holds is True
    assert found["vs_bare_pipe_latency_3"].value == 0.5  # 1 ms against our 2
    assert found["bare_pipe_ops_per_s_3"].value == 100


def test_a_missed_goal_is_missed_and_after_an_election_it_proves_nothing():
    assert ratios(rows_of(ours=30.0))[0].holds is False
    assert ratios(rows_of(ours=30.0, elections=1))[0].holds is None
    assert ratios(rows_of(ours=50.0, elections=1))[0].holds is True


def test_nothing_acknowledged_is_no_ratio():
    first = ratios(rows_of(bare=0.0))[0]
    assert (first.value, first.holds) == (None, None)


def test_the_table_shows_both_sides_of_every_row():
    text = table(BenchReport("replication", rows_of(elections=1), []))
    lines = text.splitlines()
    assert len(lines) == 1 + 2 * 3
    assert lines[0].split()[:3] == ["NODES", "CASE", "WHO"]
    assert lines[1].endswith("1 elections")
    assert "bare pipe" in lines[2]


def test_other_numbers_of_nodes_are_measured_with_small_values_only():
    settings = Settings(Path("/nowhere"))
    assert settings.cases_of(3) == (SMALL, SINGLE, LARGE)
    assert settings.cases_of(11) == (SMALL,)


def test_the_disk_must_have_room_for_logs_that_only_grow():
    quick = Settings(Path("/nowhere"), nodes=(3, 11), rounds=3, seconds=1.0)
    assert 6e9 < quick.bytes_wanted() < 10e9
    assert quick.bytes_wanted() < Settings(Path("/nowhere")).bytes_wanted() < 25e9
    assert replace(quick, nodes=(3,)).bytes_wanted() < quick.bytes_wanted()


def test_a_full_disk_is_refused_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(CommandError, match="GB for a while; give --data") as caught:
        replication(Settings(tmp_path), pytest.fail)
    assert caught.value.exit_code is Exit.UNFIT


def test_a_window_of_requests_stays_within_the_replies_a_session_keeps():
    assert client_config(2).requests_in_flight == 2
    wide = client_config(16)
    assert wide.requests_in_flight == 16
    assert wide.requests_in_flight * wide.request_operations <= REPLIES_PER_SESSION_MAX


def test_our_client_and_the_bare_pipes_run_the_same_plan():
    case = Case("c", 10, 7, 5, requests=3, bare_requests=2)
    ours, bare = case.plan(1.5, case.requests), case.plan(1.5, case.bare_requests)
    assert replace(ours, requests=0) == replace(bare, requests=0)
    assert bare_pipe.Plan(**json.loads(bare_pipe.encode_plan(ours))) == ours


# --- command line ---------------------------------------------------------------------


def test_every_bench_of_the_table_is_a_verb_with_an_example(capfd):
    for name in BENCHES:
        assert main(["bench", name, "--help"]) == 0
        assert f"raftdeck bench {name}" in capfd.readouterr().out


@pytest.mark.parametrize("nodes", ["0", "3,x", "16", "", "3,"])
def test_a_wrong_number_of_nodes_is_a_usage_error(nodes, capfd):
    assert main(["bench", "replication", "--nodes", nodes]) == Exit.USAGE
    assert "is not a number from 1 to 15" in capfd.readouterr().err


def test_a_data_directory_that_cannot_be_made_is_named(tmp_path, capfd):
    file = tmp_path / "file"
    file.write_text("")
    assert main(["bench", "replication", "--quick", "--data", str(file / "below")]) == Exit.UNFIT
    assert str(file / "below") in capfd.readouterr().err


# --- the bare pipe --------------------------------------------------------------------


def test_the_bare_pipe_imports_none_of_the_four_packages():
    tree = ast.parse(Path(bare_pipe.__file__).read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "a relative import reaches into the package"
            names.add(str(node.module).partition(".")[0])
    assert not names & PACKAGES
    assert names - set(sys.stdlib_module_names) <= {"zmq", "crc32c", "crcmod"}


def test_running_the_bare_pipe_loads_none_of_the_four_packages(tmp_path):
    program = (
        "import runpy, sys; runpy.run_path(sys.argv[1], run_name='pipe');"
        " print(*{name.partition('.')[0] for name in sys.modules})"
    )
    command = [sys.executable, "-P", "-c", program, bare_pipe.__file__]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    loaded = set(answer.stdout.split())
    assert "zmq" in loaded
    assert not loaded & PACKAGES


@pytest.mark.parametrize("value_bytes", [0, 1, 1000, bare_pipe.VIEW_BYTES_MIN])
def test_a_block_puts_what_was_put_into_it(value_bytes):
    keys = [b"a", b"bb", b"", b"dddd"]
    values = [bytes([number]) * value_bytes for number in range(4)]
    head, body = bare_pipe.encode_block(keys, values)
    state: dict[bytes, Any] = {}
    bare_pipe.apply_block(state, 4, zmq.Frame(head), zmq.Frame(body))
    assert {key: bytes(value) for key, value in state.items()} == dict(
        zip(keys, values, strict=True)
    )


def test_a_flipped_bit_is_seen_in_blocks_and_short_messages():
    head, body = bare_pipe.encode_block([b"key"], [b"value"])
    crc = bare_pipe.block_crc(head, body)
    assert bare_pipe.block_crc(head, body[:-1] + b"x") != crc
    assert bare_pipe.block_crc(b"x" + head[1:], body) != crc
    message = bare_pipe.sealed(b"12345678")
    assert bare_pipe.unsealed(message) == b"12345678"
    with pytest.raises(ValueError, match="wrong CRC"):
        bare_pipe.unsealed(b"x" + message[1:])


def test_quantiles_are_of_the_counted_values():
    counts = Counter({10: 98, 20: 1, 30: 1})
    assert bare_pipe.quantile(counts, 0.5) == 10
    assert bare_pipe.quantile(counts, 0.99) == 20
    assert bare_pipe.quantile(counts, 1.0) == 30
    assert bare_pipe.quantile(Counter(), 0.5) == 0


@pytest.mark.parametrize("value_bytes", [0, 1 << 10, 1 << 20, 4 << 20])
def test_values_are_a_bounded_set(value_bytes):
    values = bare_pipe.make_values(value_bytes)
    assert 2 <= len(values) <= 64
    assert sum(map(len, values)) <= 16 << 20
    assert all(len(value) == value_bytes for value in values)
    assert len(set(values)) == (len(values) if value_bytes else 1)
