"""`raftdeck load --history` against real nodes: what it writes is judged by `raftdeck check`."""

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.cli import main
from cluster.exits import Exit
from cluster.local import LocalCluster
from cluster.spec import ClusterSpec

pytestmark = pytest.mark.process

RAFTDECK = [sys.executable, "-c", "import sys; from dashboard.cli import main; sys.exit(main())"]
PLANTED = Path(__file__).resolve().parent.parent / "planted"
DEADLINE_S = 60.0
LOAD = ("--keys", "40", "--value-bytes", "64", "--outstanding", "16", "--timeout", "20")


@contextlib.contextmanager
def three_nodes(tmp_path: Path, **options) -> Iterator[LocalCluster]:
    spec = ClusterSpec(name="judged", data_dir=tmp_path / "data", nodes=3, **options)
    with LocalCluster.launch(spec) as cluster:
        cluster.wait_ready(DEADLINE_S)
        yield cluster


@contextlib.contextmanager
def load(path: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run `raftdeck load --history` beside the test; it is gone when the test ends."""
    command = [*RAFTDECK, "load", "--history", str(path), *LOAD, *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def lines_of(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for_lines(cluster: LocalCluster, path: Path, more: int) -> None:
    """Wait until the history has grown by `more` lines."""
    wanted = lines_of(path) + more
    cluster.wait_for(lambda _: lines_of(path) >= wanted, DEADLINE_S, f"{more} lines more")


def judged(path: Path, capfd: pytest.CaptureFixture[str], *arguments: str) -> dict:
    capfd.readouterr()
    code = main(["check", str(path), "--model", "register", "--json", *arguments])
    document: dict = json.loads(capfd.readouterr().out)
    assert code == {"pass": Exit.HELD, "fail": Exit.FAILED}[document["verdict"]]
    return document


@pytest.mark.timeout(240)
def test_a_load_whose_leader_is_killed_is_linearizable(
    desk: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "h.jsonl"
    with three_nodes(tmp_path) as cluster, load(path, "--seconds", "120") as process:
        wait_for_lines(cluster, path, 400)
        cluster.kill("leader")
        wait_for_lines(cluster, path, 400)  # more than are under way: somebody leads again
        cluster.start("all")
        wait_for_lines(cluster, path, 400)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == Exit.INTERRUPTED, told
        assert f"raftdeck check {path} --model register" in told
    for way in ("witness", "wgl"):
        document = judged(path, capfd, "--by", way)
        assert document["verdict"] == "pass", document["checks"]
        assert document["operations"]["ok"] > 500
    text = path.read_text()
    assert text.count('"read"') > 100
    assert text.count('"write"') > 100


@pytest.mark.timeout(240)
def test_a_node_that_answers_an_old_value_is_found(
    desk: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "h.jsonl"
    planted = {"entry_module": "old_value_node", "entry_paths": (PLANTED,)}
    with three_nodes(tmp_path, **planted), load(path, "--ops", "2000") as process:
        _, told = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == Exit.HELD, told
    document = judged(path, capfd)
    assert document["verdict"] == "fail"
    assert "read 'h" in " ".join(document["checks"][0]["lines"])


@pytest.mark.timeout(240)
def test_a_second_load_is_judged_by_itself_and_bulks_have_an_outcome_each(
    desk: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with three_nodes(tmp_path):
        for number in (1, 2):
            path = tmp_path / f"{number}.jsonl"
            with load(path, "--ops", "600", "--bulk", "8", "--json") as process:
                out, told = process.communicate(timeout=DEADLINE_S)
                assert process.returncode == Exit.HELD, told
            report = json.loads(out)
            document = judged(path, capfd, "--by", "witness")
            assert document["verdict"] == "pass", document["checks"]
            assert document["operations"]["all"] == report["operations"]
            assert document["operations"]["ok"] == report["acked"]


@pytest.mark.timeout(240)
def test_a_place_that_takes_no_history_is_named(
    desk: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with three_nodes(tmp_path):
        for place, code in (
            ("/dev/full", Exit.USAGE),
            (str(tmp_path), Exit.USAGE),
            ("/nonexistent/h.jsonl", Exit.UNFIT),
        ):
            assert main(["load", "--ops", "1", "--history", place]) == code
            assert place in capfd.readouterr().err
