"""`raftdeck demo` as a person starts it: real processes, real faults, everything read back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.recording import Recording

RAFTDECK = [sys.executable, "-c", "import sys; from dashboard.cli import main; sys.exit(main())"]


def small_input(tmp_path: Path) -> Path:
    directory = tmp_path / "input"
    directory.mkdir()
    for number in range(40):
        (directory / f"file {number}.bin").write_bytes(os.urandom(number * 700))
    return directory


def processes_of(root: Path) -> list[int]:
    """Pids of processes that name this directory: nodes their run directory, supervisors both."""
    pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if os.fsencode(root) in command:
                pids.append(int(entry.name))
    return pids


@pytest.mark.timeout(150)
def test_the_demo_loses_nothing_and_says_so_in_one_document(tmp_path: Path, desk: Path) -> None:
    data = desk / "data"
    command = [*RAFTDECK, "demo", "--headless", "--seconds", "8", "-n", "3", "--json"]
    command += ["--input", str(small_input(tmp_path)), "--data", str(data)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=140, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema"] == "raftdeck.test/1"
    assert document["verdict"] == "pass"
    assert document["ops"]["acked"] > 0
    assert document["ops"]["lost"] == document["ops"]["duplicated"] == 0
    kinds = [fault["kind"] for fault in document["faults"]]
    assert kinds == ["kill", "start", "pause", "resume", "kill", "start"]
    assert "signal 9" in document["faults"][0]["proof"]
    assert [view["source"] for view in document["views"]] == ["leader", "n1", "n2", "n3"]
    assert len({view["sha256"] for view in document["views"]}) == 1
    assert (data / "n1" / "wal").is_dir()
    assert done.stderr.rstrip().splitlines()[-1].endswith(str(data))
    assert not processes_of(desk)
    with Recording.open(data) as recording:
        events = recording.events()
    causes = [e.by for e in events if e.kind in ("killed", "frozen", "thawed")]
    assert causes[0] == "step 1/6 kill leader"
    assert set(causes) == {
        "step 1/6 kill leader", "step 3/6 pause followers", "step 4/6 resume frozen",
        "step 5/6 kill minority",
    }  # fmt: skip
    told = [event for event in events if event.kind == "mark"]
    assert len(told) == 7, "what each step did to the writes, and the verdict, are in the recording"
    assert all("next write acked in" in event.effect for event in told[:6])
    assert told[-1].effect.startswith(f"PASS: {document['ops']['acked']:,} acked, 0 lost")


@pytest.mark.timeout(120)
def test_ctrl_c_ends_the_demo_its_cluster_and_says_where_the_data_is(
    tmp_path: Path, desk: Path
) -> None:
    data = desk / "data"
    command = [*RAFTDECK, "demo", "--seconds", "60", "-n", "3", "--data", str(data)]
    command += ["--input", str(small_input(tmp_path))]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as demo:
        assert demo.stderr is not None
        lines = []
        for line in demo.stderr:
            lines.append(line)
            if "nodes are up" in line:
                break
        assert len(processes_of(desk)) >= 5, "the demo, its supervisor and three nodes are seen"
        demo.send_signal(signal.SIGINT)
        rest = demo.stderr.read()
        assert demo.wait(60) == 130, lines
    assert str(data) in rest
    deadline = time.monotonic() + 20
    while processes_of(desk):
        assert time.monotonic() < deadline, "processes are left"


def test_a_wrong_input_is_a_clear_usage_error(tmp_path: Path) -> None:
    command = [*RAFTDECK, "demo", "--input", str(tmp_path / "absent")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert "no such file" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_demo_refuses_a_directory_that_holds_something(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    command = [*RAFTDECK, "demo", "--data", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert "not empty" in done.stderr
    assert (tmp_path / "mine.txt").read_text() == "precious"
