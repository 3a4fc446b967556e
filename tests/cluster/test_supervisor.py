"""Process supervision, with a stub in place of the node (tests/planted/stub_node.py).

What is proved here is about processes, locks, sockets and frames; nothing about Raft.
"""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import zmq

from cluster.control import Control
from cluster.exits import CommandError, Exit
from cluster.frames import ClusterFrame, ProcessState
from cluster.local import LocalCluster, remove_leftovers
from cluster.paths import control_path, frames_path, list_runs, run_dir_of
from cluster.processes import module_environment
from cluster.spec import ClusterSpec, load_spec
from node.admin import decode_reply, encode_request
from node.identity import IDENTITY_FILE

pytestmark = pytest.mark.process


def stub_spec(data_dir):
    planted = Path(__file__).resolve().parent.parent / "planted"
    return ClusterSpec(
        name="deck", data_dir=data_dir, entry_module="stub_node", entry_paths=(planted,)
    )


@pytest.fixture
def spec(desk, tmp_path):
    """A cluster of the test's own, to be launched."""
    return stub_spec(tmp_path / "data")


@pytest.fixture(scope="module")
def shared(shared_desk, tmp_path_factory):
    with LocalCluster.launch(stub_spec(tmp_path_factory.mktemp("shared"))) as cluster:
        cluster.wait_ready()
        yield cluster


@pytest.fixture
def cluster(shared):
    """The cluster that most tests share; every node runs again when a test is done with it."""
    yield shared
    states = {part.process.state for part in shared.frame().nodes}
    if ProcessState.FROZEN in states:
        shared.resume("frozen")
    if states - {ProcessState.RUNNING, ProcessState.FROZEN}:
        shared.start("down")
    shared.wait_ready()


def truth(cluster, node):
    return cluster.frame().node(node).process


def in_state(node, state):
    return lambda frame: frame.node(node).process.state is state


# --- what a frame says ----------------------------------------------------------------


def test_a_frame_carries_process_truth_and_protocol_truth(cluster):
    frame = cluster.frame()
    assert (frame.name, frame.cluster_id, frame.groups) == ("deck", cluster.spec.cluster_id, 1)
    assert frame.supervisor_pid == cluster.supervisor_pid
    assert [part.node for part in frame.nodes] == [1, 2, 3]
    assert frame.leader() == 1
    for part in frame.nodes:
        assert part.process.state is ProcessState.RUNNING
        assert part.process.starts >= 1
        assert part.snapshot.pid == part.process.pid
        assert psutil.Process(part.process.pid).ppid() == cluster.supervisor_pid
        assert part.fresh


def test_a_subscriber_gets_ten_frames_a_second_with_rates(cluster):
    """The stub counts 100 syncs and 1,000 entries a second of its life."""
    stream = cluster.stream()
    try:
        frames: list[ClusterFrame] = []
        while len(frames) < 15:
            frame = stream.newest(5)
            assert frame is not None
            frames.append(frame)
    finally:
        stream.close()
    elapsed = (frames[-1].unix_ms - frames[0].unix_ms) / 1000
    assert elapsed < 14 * 0.1 * 3
    assert [f.sequence for f in frames] == sorted({f.sequence for f in frames})
    last = frames[-1].node(2)
    rates = last.rates
    assert rates is not None
    assert rates.fsyncs_per_s == pytest.approx(100, rel=0.2)
    assert rates.entries_per_fsync == pytest.approx(10, rel=0.2)
    assert last.process.cpu_percent is not None
    assert (last.process.rss_bytes or 0) > 1 << 20


def test_events_are_numbered_and_say_who_did_it(cluster):
    cluster.kill("n2")
    cluster.start("n2")
    events = cluster.events()
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    seen = [(event.kind, event.node, event.cause) for event in events]
    assert seen.index(("started", 1, "user")) < seen.index(("leader", 1, "system"))
    assert seen[-2:] == [("killed", 2, "user"), ("started", 2, "user")]
    assert cluster.events(since=events[-2].sequence) == events[-1:]


def test_events_tell_what_they_did_and_which_step_of_a_scenario_wanted_it(cluster):
    with cluster.as_step("2: kill the leader"):
        cluster.kill("leader")
    cluster.start("n1")
    killed, started = cluster.events()[-2:]
    assert (killed.step, killed.effect) == ("2: kill the leader", "exit -9 · leader lost")
    assert (started.step, started.effect) == ("", "")
    with (
        pytest.raises(CommandError, match="at most 80 characters") as caught,
        cluster.as_step("x" * 81),
    ):
        cluster.kill("n2")
    assert caught.value.exit_code is Exit.USAGE


def test_a_mark_is_an_event_with_its_words_its_effect_and_its_step(cluster):
    with cluster.as_step("3/6 kill leader"):
        marked = cluster.mark("n1 measured", "next write acked after 121 ms")
    mine = cluster.mark("x" * 900)
    assert cluster.events()[-2:] == (marked, mine)
    assert (marked.kind, marked.cause, marked.node) == ("mark", "user", None)
    assert (marked.step, marked.effect) == ("3/6 kill leader", "next write acked after 121 ms")
    assert (len(mine.text), mine.by) == (500, "you")
    with pytest.raises(CommandError, match="text: a text of at most"):
        cluster.mark("x" * 2_000)


def test_the_end_of_one_subscription_does_not_silence_another(cluster):
    """XPUB tells of each topic's last subscriber; there may be others, of other topics."""
    with zmq.Context() as context, context.socket(zmq.SUB) as stranger:
        stranger.connect(f"ipc://{frames_path(run_dir_of('deck'))}")
        stream = cluster.stream()
        try:
            stranger.subscribe(b"")
            assert stranger.poll(5_000)
            assert stream.newest(5) is not None
            stranger.unsubscribe(b"")
            numbers = [frame.sequence for _ in range(20) if (frame := stream.newest(5))]
        finally:
            stream.close()
    assert len(numbers) == 20
    # At one poll a second, the frames of two seconds are two.
    assert numbers[-1] - numbers[0] <= 40


# --- what nobody honest sends ---------------------------------------------------------


def ask(frames: list[bytes]) -> None:
    """Send requests to the supervisor; return when the last of them has been read."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(f"ipc://{control_path(run_dir_of('deck'))}")
        for frame in frames:
            socket.send(frame)
        socket.send(encode_request(99, "hello"))
        while socket.poll(5_000):
            if decode_reply(socket.recv()).number == 99:
                return
    raise AssertionError("the supervisor does not answer")


def hello(cluster):
    """What the supervisor counts on its control socket."""
    with Control(cluster.run_dir) as control:
        return control.request("hello")["control"]


DEEP_LIST = b"\x91" * 1_010 + b"\xc0"


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(b"\x94\x01\x07\xa3act\x81\xa6action" + DEEP_LIST, id="action"),
        pytest.param(b"\x94\x01\x07\xa3act\x81\xa8selector" + DEEP_LIST, id="selector"),
        pytest.param(b"\x94\x01\x07\xa6events\x81\xa5since" + DEEP_LIST, id="since"),
    ],
)
def test_an_argument_too_deep_to_be_written_down_is_refused(cluster, request_):
    """A frame of 1 KB once ended the supervisor, and every node with it, by a RecursionError."""
    before = hello(cluster)
    ask([request_])
    after = hello(cluster)
    assert after["refused"] == before["refused"] + 1
    assert after["malformed"] == before["malformed"]


def test_every_frame_that_is_no_request_is_counted(cluster):
    before = hello(cluster)
    ask([b"", b"\x94", encode_request(1, "x" * 65), encode_request(2, "nothing"), b"\xc1" * 100])
    after = hello(cluster)
    assert after["malformed"] == before["malformed"] + 4
    assert after["refused"] == before["refused"] + 1
    assert after["frames_in"] == before["frames_in"] + 7, "with two that said hello"


# --- actions --------------------------------------------------------------------------


def test_a_killed_node_is_dead_on_return_and_starts_again(cluster):
    before, starts = truth(cluster, 1).pid, truth(cluster, 1).starts
    result = cluster.kill("leader")
    assert (result.nodes, result.states) == ((1,), {"n1": "killed"})
    assert before is not None
    assert not psutil.pid_exists(before)
    killed = cluster.frame().node(1)
    assert (killed.process.signal, killed.process.cause) == (signal.SIGKILL, "user")
    assert (killed.process.pid, killed.snapshot) == (None, None)
    assert cluster.start("n1").states == {"n1": "running"}
    after = truth(cluster, 1)
    assert after.pid != before
    assert after.starts == starts + 1


def test_nobody_restarts_a_node_that_a_person_killed(cluster):
    cluster.kill("n3")
    stream = cluster.stream()
    for _ in range(12):  # longer than a round of the supervisor's slowest polling
        assert stream.newest(5).node(3).process.state is ProcessState.KILLED
    stream.close()


def test_a_death_that_nobody_asked_for_is_called_a_crash(cluster):
    os.kill(truth(cluster, 2).pid, signal.SIGKILL)
    frame = cluster.wait_for(in_state(2, ProcessState.CRASHED), 10)
    process = frame.node(2).process
    assert (process.signal, process.cause) == (signal.SIGKILL, "system")
    assert "n2 crashed (signal SIGKILL)" in frame.events[-1].text
    assert frame.events[-1].cause == "system"


def test_a_node_that_ends_by_itself_is_not_said_to_be_stopped_by_a_person(cluster):
    os.kill(truth(cluster, 2).pid, signal.SIGTERM)
    frame = cluster.wait_for(in_state(2, ProcessState.STOPPED), 10)
    assert frame.node(2).process.cause == "system"


def test_a_paused_node_is_frozen_for_the_kernel_too(cluster):
    pid = truth(cluster, 2).pid
    assert cluster.pause("n2").states == {"n2": "frozen"}
    assert psutil.Process(pid).status() == psutil.STATUS_STOPPED
    assert cluster.frame().node(2).process.cause == "user"
    cluster.resume("frozen")
    assert psutil.Process(pid).status() != psutil.STATUS_STOPPED
    assert truth(cluster, 2).state is ProcessState.RUNNING


def test_a_freeze_from_outside_is_seen_and_not_blamed_on_the_user(cluster):
    os.kill(truth(cluster, 3).pid, signal.SIGSTOP)
    frame = cluster.wait_for(in_state(3, ProcessState.FROZEN), 10)
    assert frame.node(3).process.cause == "system"
    assert not frame.node(3).fresh


def test_a_frozen_node_can_be_stopped_cleanly(cluster):
    cluster.pause("n2")
    assert cluster.stop("n2").states == {"n2": "stopped"}
    assert cluster.frame().node(2).process.exit_code == 0


def test_a_node_that_does_not_stop_is_killed_after_the_timeout(spec):
    deaf = replace(spec, stop_timeout_ms=300, entry_options={"deaf_node": 2})
    with LocalCluster.launch(deaf) as cluster:
        cluster.wait_ready()
        assert cluster.stop("all").states == {"n1": "stopped", "n2": "killed", "n3": "stopped"}
        assert [event.node for event in cluster.events() if event.kind == "forced"] == [2]


def test_a_restart_is_a_clean_stop_and_a_new_life(cluster):
    before = [part.process.starts for part in cluster.frame().nodes]
    cluster.kill("n3")
    assert set(cluster.restart("all").states.values()) == {"running"}
    after = [part.process.starts for part in cluster.frame().nodes]
    assert after == [count + 1 for count in before]


def test_a_slow_stop_holds_up_nobody_else(spec):
    deaf = replace(spec, stop_timeout_ms=3_000, entry_options={"deaf_node": 2})
    with LocalCluster.launch(deaf) as cluster, LocalCluster.attach("deck") as other:
        cluster.wait_ready()
        cluster._control._socket.send(_raw_act("stop", "n2"))
        assert cluster_is_busy(other)
        assert other.kill("n3").states == {"n3": "killed"}
        assert truth(other, 2).state is ProcessState.RUNNING


def _raw_act(action, selector):
    from node.admin import encode_request

    return encode_request(10_000, "act", {"action": action, "selector": selector})


def cluster_is_busy(cluster):
    """A fresh frame is answered after the stop was taken: requests are read in order."""
    return cluster.frame().node(2).process.state is ProcessState.RUNNING


def test_what_does_not_apply_is_refused_and_says_why(cluster):
    cluster.kill("n2")
    with pytest.raises(CommandError, match="n2 is killed; nothing to do") as caught:
        cluster.kill("n2")
    assert caught.value.exit_code is Exit.FAILED
    result = cluster.stop("all")
    assert result.nodes == (1, 3)
    assert result.notes == ("n2 skipped: killed",)


def test_an_unknown_selector_and_an_unknown_action_are_usage_errors(cluster):
    for attempt in (lambda: cluster.kill("n9"), lambda: cluster._act("hug", "n1", None)):
        with pytest.raises(CommandError, match="valid are") as caught:
            attempt()
        assert caught.value.exit_code is Exit.USAGE


def test_random_draws_among_those_to_whom_the_verb_applies(cluster):
    cluster.kill("n1,n2")
    result = cluster.kill("random", seed=5)
    assert result.nodes == (3,)
    assert result.notes == ("random picked n3 (--seed 5)",)
    assert cluster.start("random").nodes[0] in (1, 2, 3)


# --- failures at the start ------------------------------------------------------------


@pytest.mark.parametrize(
    ("node_exit", "verb_exit"),
    [(65, Exit.FAILED), (74, Exit.FAILED), (75, Exit.UNFIT), (76, Exit.UNFIT), (78, Exit.USAGE)],
)
def test_a_node_that_cannot_start_reports_its_own_error(spec, node_exit, verb_exit):
    broken = replace(spec, entry_options={"exit_node": 2, "exit_code": node_exit})
    with LocalCluster.launch(broken) as cluster:
        with pytest.raises(CommandError, match=r"n2 ended with .*bad CRC at byte 8192") as caught:
            cluster.wait_ready()
        assert caught.value.exit_code is verb_exit
        process = cluster.frame().node(2).process
        assert (process.state, process.exit_code) == (ProcessState.CRASHED, node_exit)
        assert process.last_log[-2:] == (
            "line before",
            "segment 00000001.wal: bad CRC at byte 8192",
        )
        with pytest.raises(CommandError, match="bad CRC at byte 8192") as caught:
            cluster.start("n2")
        assert caught.value.exit_code is verb_exit
        assert truth(cluster, 1).state is ProcessState.RUNNING


def test_an_entry_module_that_does_not_exist_is_reported(spec):
    with (
        LocalCluster.launch(replace(spec, entry_module="no_such_module")) as cluster,
        pytest.raises(CommandError, match="No module named no_such_module"),
    ):
        cluster.wait_ready()


def test_a_directory_of_another_node_or_cluster_is_refused_and_left_alone(spec):
    with LocalCluster.launch(spec) as cluster:
        cluster.wait_ready()
    identities = [spec.node_dir(n) / IDENTITY_FILE for n in (1, 2)]
    texts = [path.read_text() for path in identities]
    for wrong, words in (
        (json.loads(texts[1]) | {"node": 1}, "belongs to node n1, not to n2"),
        (json.loads(texts[1]) | {"cluster_id": "f" * 32}, "belongs to cluster ffff"),
    ):
        identities[1].write_text(json.dumps(wrong))
        with LocalCluster.launch(spec) as cluster, pytest.raises(CommandError, match=words) as e:
            cluster.wait_ready()
        assert e.value.exit_code is Exit.USAGE
        assert json.loads(identities[1].read_text()) == wrong
    identities[1].write_text(texts[1])
    with LocalCluster.launch(spec) as cluster:
        cluster.wait_ready()


# --- locks and leftovers --------------------------------------------------------------


def test_a_data_directory_has_one_cluster_and_the_error_names_it(cluster):
    spec = cluster.spec
    before = sorted(path for path in spec.data_dir.rglob("*"))
    with pytest.raises(CommandError, match="data directory in use") as caught:
        LocalCluster.launch(replace(spec, name="other"))
    assert caught.value.exit_code is Exit.UNFIT
    assert f"cluster 'deck' (supervisor pid {cluster.supervisor_pid})" in str(caught.value)
    assert sorted(path for path in spec.data_dir.rglob("*")) == before
    assert [run.name for run in list_runs()] == ["deck"]
    assert cluster.frame().healthy() == (1, 2, 3)


def test_a_name_is_used_once_and_the_error_names_its_holder(cluster, tmp_path):
    spec = cluster.spec
    with pytest.raises(CommandError, match="cluster 'deck' runs already") as caught:
        LocalCluster.launch(replace(spec, data_dir=tmp_path / "elsewhere"))
    assert caught.value.exit_code is Exit.UNFIT
    assert cluster.frame().healthy() == (1, 2, 3)
    assert not (tmp_path / "elsewhere").exists()


def test_a_directory_of_something_else_is_refused_and_left_alone(spec):
    spec.data_dir.mkdir()
    (spec.data_dir / "thesis.tex").write_text("ten years")
    with pytest.raises(CommandError, match=r"thesis\.tex") as caught:
        LocalCluster.launch(spec)
    assert caught.value.exit_code is Exit.USAGE
    assert [path.name for path in spec.data_dir.iterdir()] == ["thesis.tex"]
    assert list_runs() == []


def test_down_leaves_no_process_socket_or_lock_and_all_the_data(spec, desk, living):
    cluster = LocalCluster.launch_detached(spec)
    cluster.wait_ready()
    cluster.pause("n3")
    pids = [part.process.pid or 0 for part in cluster.frame().nodes]
    cluster.down()
    cluster.close()
    assert not [pid for pid in (*pids, cluster.supervisor_pid) if psutil.pid_exists(pid)]
    assert living(str(desk)) == []
    assert list((desk / "raftdeck").iterdir()) == []
    assert not (spec.data_dir / "LOCK").exists()
    assert load_spec(spec.data_dir) == spec
    with pytest.raises(CommandError, match="no cluster is running") as caught:
        LocalCluster.attach()
    assert caught.value.exit_code is Exit.NO_CLUSTER


def test_a_killed_supervisor_takes_every_node_with_it_even_frozen_ones(
    spec, desk, living, eventually
):
    cluster = LocalCluster.launch_detached(spec)
    cluster.wait_ready()
    cluster.pause("n2,n3")
    assert len(living(str(desk))) == 4
    os.kill(cluster.supervisor_pid, signal.SIGKILL)
    assert eventually(lambda: not living(str(desk))), living(str(desk))
    os.waitpid(cluster.supervisor_pid, 0)
    with pytest.raises(CommandError) as caught:
        cluster.frame()
    assert caught.value.exit_code is Exit.NO_CLUSTER
    cluster.close()
    [run] = list_runs()
    assert run.leftover
    with LocalCluster.launch(spec) as again:
        assert again.wait_ready().leader() == 1


def test_leftovers_of_dead_supervisors_are_removed_by_name(spec, desk, living, eventually):
    cluster = LocalCluster.launch_detached(spec)
    cluster.close()
    os.kill(cluster.supervisor_pid, signal.SIGKILL)
    assert eventually(lambda: not living(str(desk)))
    os.waitpid(cluster.supervisor_pid, 0)
    assert remove_leftovers() == ["deck"]
    assert list_runs() == []


LAUNCHER = """
import sys, time
from pathlib import Path
from cluster.local import LocalCluster
from cluster.spec import ClusterSpec
cluster = LocalCluster.launch(ClusterSpec.from_json(sys.argv[1], Path(sys.argv[2])))
cluster.wait_ready()
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_cluster_ends_cleanly_with_its_launcher_however_that_dies(
    spec, desk, living, eventually, number
):
    launcher = subprocess.Popen(
        [sys.executable, "-P", "-c", LAUNCHER, spec.to_json(), str(spec.data_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=module_environment(),
    )
    with launcher:
        assert launcher.stdout is not None
        assert launcher.stdout.readline() == b"ready\n"
        launcher.send_signal(number)
    assert eventually(lambda: not living(str(desk)) and not list_runs())
    for node in spec.node_ids:
        assert b"stopped (exit 0" in (spec.node_dir(node) / "node.log").read_bytes()


def test_a_detached_cluster_outlives_its_launcher(spec):
    program = LAUNCHER.replace("launch(", "launch_detached(").replace("sys.stdin.read()", "")
    subprocess.run(
        [sys.executable, "-P", "-c", program, spec.to_json(), str(spec.data_dir)],
        env=module_environment(),
        check=True,
        timeout=30,
    )
    with LocalCluster.attach(str(spec.data_dir)) as cluster:
        assert cluster.frame().healthy() == (1, 2, 3)
        cluster.down()


# --- robustness -----------------------------------------------------------------------


def test_garbage_on_the_control_socket_is_dropped(cluster):
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 5_000  # closing waits until all of it has been sent
        socket.connect(f"ipc://{control_path(run_dir_of('deck'))}")
        for number in range(200):
            socket.send(os.urandom(number))
        socket.send_multipart([b"", b"", b""])
    for verb, args in (
        ("hug", {}),
        ("events", {"since": "x"}),
        ("act", {"action": "kill", "selector": "n1", "seed": "x"}),
        ("act", {}),
    ):
        with pytest.raises(CommandError) as caught:
            cluster._control.request(verb, args)
        assert caught.value.exit_code is Exit.USAGE
    assert cluster.frame().healthy() == (1, 2, 3)


def test_a_nodes_log_is_bounded(spec, eventually):
    noisy = replace(spec, nodes=1, entry_options={"noise_bytes": 5 << 20})
    with LocalCluster.launch(noisy) as cluster:
        cluster.wait_ready()
        path = spec.node_dir(1) / "node.log"
        assert eventually(lambda: path.stat().st_size < 1 << 20)
        assert path.with_name("node.log.1").stat().st_size >= 5 << 20
        cluster.restart("n1")
        assert path.stat().st_size < 6 << 20


def test_fifteen_nodes_come_and_go(spec, desk, living):
    with LocalCluster.launch(replace(spec, nodes=15)) as cluster:
        assert len(cluster.wait_ready().healthy()) == 15
        assert len(cluster.kill("minority").nodes) == 7
        assert len(cluster.start("down").nodes) == 7
    assert living(str(desk)) == []


def test_data_survives_from_one_up_to_the_next(spec):
    with LocalCluster.launch(spec) as cluster:
        cluster.wait_ready()
    kept = {path: path.read_bytes() for path in Path(spec.data_dir).rglob(IDENTITY_FILE)}
    assert len(kept) == 3
    found = load_spec(spec.data_dir)
    assert found is not None
    with LocalCluster.launch(found) as cluster:
        cluster.wait_ready()
        assert all(path.read_bytes() == text for path, text in kept.items())
