"""The dashboard on a real terminal over a real cluster: faults by key, clean ends, true numbers."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest

from cluster.client import Client
from cluster.local import LocalCluster
from cluster.spec import ClusterSpec
from tests.process.terminal import Terminal
from tests.process.test_demo import processes_of, small_input
from tests.process.wal_facts import read_facts

RAFTDECK = [sys.executable, "-c", "import sys; from dashboard.cli import main; sys.exit(main())"]
CRASH = """
import sys
from dashboard import cli, desk
def crash(self):
    raise RuntimeError("planted")
desk.Desk._do_help = crash
sys.exit(cli.main())
"""
CRASHING = [sys.executable, "-c", CRASH]


@pytest.fixture
def terminal():
    opened: list[Terminal] = []

    def make(command, **options) -> Terminal:
        opened.append(Terminal(command, **options))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def assert_nothing_is_left(desk: Path) -> None:
    deadline = time.monotonic() + 20
    while left := processes_of(desk):
        assert time.monotonic() < deadline, f"processes are left: {left}"


def demo_command(tmp_path: Path, desk: Path) -> list[str]:
    source = ["--input", str(small_input(tmp_path)), "--data", str(desk / "data")]
    return ["demo", "-n", "3", "--seconds", "600", *source]


@pytest.mark.timeout(120)
def test_a_presenter_kills_the_leader_by_keys_restarts_it_and_leaves(tmp_path, desk, terminal):
    screen = terminal([*RAFTDECK, *demo_command(tmp_path, desk)])
    led = screen.await_text(r"▲ n(\d) term (\d+)")
    old = led[1]
    assert len(processes_of(desk)) >= 5
    screen.press("lx")
    screen.await_text(rf"FAULT on n{old} ▲ LEADER")
    screen.await_text(r"k +kill +SIGKILL: gone at once")
    screen.press("k")
    screen.await_text(rf"n{old} killed \(signal SIGKILL\)")
    screen.await_text(r"you \(x k\)")
    new = screen.await_text(rf"▲ n([^{old}]) term (\d+)")
    assert int(new[2]) > int(led[2])
    screen.await_text("TOUR PAUSED")
    screen.press("xr")
    screen.await_text(rf"start: n{old} running")
    screen.await_text("3 up")
    screen.press("q")
    screen.await_text("end the demo and its cluster")
    screen.press("y")
    assert screen.ends() == 0
    assert screen.restored()
    assert str(desk / "data") in screen.said
    assert_nothing_is_left(desk)


@pytest.mark.timeout(120)
def test_a_hastened_tour_comes_to_its_verdict(tmp_path, desk, terminal):
    command = demo_command(tmp_path, desk)
    command[command.index("600")] = "90"
    screen = terminal([*RAFTDECK, *command])
    screen.await_text("step 1/6")
    deadline = time.monotonic() + 60
    while not re.search(r"PASS [\d,]+ acked, 0 lost", screen.text):
        assert time.monotonic() < deadline, screen.text[-4000:]
        screen.press("n")
        screen.pump(0.2)
    screen.press("qy")
    assert screen.ends() == 0
    assert "verdict      pass" in screen.said
    assert_nothing_is_left(desk)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_demo_its_cluster_and_restores_the_terminal(
    tmp_path, desk, terminal, number
):
    screen = terminal([*RAFTDECK, *demo_command(tmp_path, desk)])
    screen.await_text("step 1/6")
    if number == signal.SIGHUP:
        screen.press("n")
        screen.await_text("step 1/6 kill")
        screen.await_text("step 2/6")
    screen.process.send_signal(number)
    assert screen.ends() == 128 + number
    assert screen.restored()
    assert_nothing_is_left(desk)


@pytest.mark.timeout(120)
def test_a_crash_inside_ends_the_demo_its_cluster_and_restores_the_terminal(
    tmp_path, desk, terminal
):
    screen = terminal([*CRASHING, *demo_command(tmp_path, desk)])
    screen.await_text(r"▲ n\d term \d+")
    screen.press("?")
    assert screen.ends() == 4
    assert screen.restored()
    assert "planted" in screen.said
    assert_nothing_is_left(desk)


@pytest.fixture
def cluster(desk):
    spec = ClusterSpec(name="shown", data_dir=desk / "data", nodes=3)
    with LocalCluster.launch(spec) as launched:
        launched.wait_ready()
        yield launched


def leave(screen: Terminal) -> None:
    screen.press("q")
    assert screen.ends() == 0
    assert screen.restored()


@pytest.mark.timeout(120)
def test_a_crash_inside_and_a_closed_window_leave_the_cluster_alone(cluster, terminal):
    screen = terminal([*CRASHING, "dash"])
    screen.await_text("LEADER")
    screen.press("?")
    assert screen.ends() == 4
    assert screen.restored()
    assert "planted" in screen.said
    assert len(cluster.frame().healthy()) == 3

    screen = terminal([*RAFTDECK, "dash"])
    screen.await_text("LEADER")
    screen.hang_up()
    assert screen.process.wait(20) in (128 + signal.SIGHUP, -signal.SIGHUP, 4)
    assert len(cluster.frame().healthy()) == 3


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", [signal.SIGTSTP, signal.SIGSTOP])
def test_a_dashboard_that_was_stopped_gives_the_terminal_back_and_paints_all_again(
    cluster, terminal, number
):
    screen = terminal([*RAFTDECK, "dash"])
    screen.await_text("LEADER")
    screen.process.send_signal(number)
    screen.await_that(lambda: state_of(screen.process.pid) == "T", "the stop")
    if number == signal.SIGTSTP:
        screen.await_that(screen.restored, "the terminal as it was")
    screen.emulator.feed("\x1b[2J\x1b[3;3Hwhat a shell wrote meanwhile")
    screen.process.send_signal(signal.SIGCONT)
    screen.await_text("LEADER")
    screen.await_that(lambda: "a shell wrote" not in screen.text, "the repair")
    screen.await_that(lambda: len(rows_of(screen)) == 3, "a row per node")
    screen.press("?")
    screen.await_text("HELP")
    screen.press("?")
    screen.await_that(lambda: "HELP" not in screen.text, "the way back")
    screen.resize(80, 24)
    screen.await_that(
        lambda: screen.text.splitlines()[2].startswith("─ NODES"), "the table without its box"
    )
    leave(screen)


def rows_of(screen: Terminal) -> dict[int, list[str]]:
    """Each node's row of the table as words, from its shape on."""
    rows = re.finditer(r"│[ ▸]+(\d+) ([▲○] (?:LEADER|follow)[^│]*)│", screen.text)
    return {int(row[1]): row[2].split() for row in rows}


@pytest.mark.timeout(120)
def test_the_screen_shows_what_proc_and_the_logs_say(cluster, terminal):
    with Client(cluster.endpoints(), 20.0) as client:
        for number in range(40):
            client.put(b"key %d" % number, b"value")
    cluster.wait_for(lambda frame: len(frame.caught_up()) == 3, 20, "all caught up")
    frame = cluster.frame()
    screen = terminal([*RAFTDECK, "dash", "--readonly"], size=(120, 36))
    screen.await_text("READ-ONLY")
    screen.await_that(lambda: len(rows_of(screen)) == 3, "a row per node")
    rows = rows_of(screen)
    resident = {}
    for node, words in rows.items():
        pid = int(words[2])
        assert os.fsencode(f"n{node}") in Path(f"/proc/{pid}/cmdline").read_bytes()
        assert pid == frame.node(node).process.pid
        resident[node] = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
    leave(screen)
    shown = {node: (int(words[3]), int(words[5].replace(",", ""))) for node, words in rows.items()}
    data_dir = cluster.spec.data_dir
    cluster.down()
    for node, (term, commit) in shown.items():
        facts = read_facts(node, data_dir / f"n{node}" / "wal")
        assert term == facts.hard_states[-1][0]
        last = max(base + count - 1 for (_, base), (count, _) in facts.batches.items())
        assert commit == last, f"n{node}: the screen says {commit}, the log {last}"
        mib = float(next(word for word in rows[node] if re.fullmatch(r"[\d.]+M", word))[:-1])
        assert mib == pytest.approx(resident[node] / (1 << 20), rel=0.25)
