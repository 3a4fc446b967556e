"""The real client over real sockets (docs/ARCHITECTURE.md §8)."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.client import (
    AsyncClient,
    BulkResult,
    Client,
    ClientConfig,
    ClientFuture,
    DefiniteError,
    Endpoints,
    GetResult,
    IndefiniteError,
    KeyValue,
    NoQuorumError,
)
from cluster.client_core import group_of
from cluster.client_types import Range
from cluster.load import Load, LoadPlan
from cluster.workload import synthetic
from node import commands
from node.client_wire import (
    ReadRequest,
    WriteRequest,
)
from node.commands import OutcomeCode
from node.limits import VALUE_BYTES_MAX
from node.ports import Outcome
from node.raft.types import GroupId, NodeId
from tests.cluster.fake_cluster import CLUSTER, GENEROUS_S, FakeCluster, Fate, is_put, running


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    with running() as fake:
        yield fake


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    before = set(threading.enumerate())
    yield
    left = [thread for thread in threading.enumerate() if thread not in before]
    assert left == []


# --- every verb ---------------------------------------------------------------------------


def test_every_verb_of_the_client(cluster):
    with Client(cluster.endpoints, GENEROUS_S) as client:
        assert client.put(b"a", b"1") == Outcome(OutcomeCode.OK, 1)
        assert client.cas(b"a", b"1", b"2").code == OutcomeCode.OK
        assert client.cas(b"a", b"1", b"3") == Outcome(OutcomeCode.CONFLICT, 2, b"2")
        assert client.cas(b"b", None, b"x").code == OutcomeCode.OK
        assert client.get(b"a") == GetResult(3, KeyValue(b"a", b"2", 1, 2, 2))
        operations = [commands.put(b"c", b"y"), commands.delete(b"b")]
        assert client.batch(operations).code == OutcomeCode.OK
        aborted = client.batch([commands.put(b"d", b""), commands.cas(b"a", b"?", b"")])
        assert aborted.code == OutcomeCode.BATCH_ABORTED
        assert client.delete(b"zz").code == OutcomeCode.ABSENT
        result = client.range(Range())
        assert [(item.key, item.value) for item in result.items] == [(b"a", b"2"), (b"c", b"y")]
        assert client.range(Range(b"b", b"", 1)).items[0].key == b"c"
        assert client.get(b"a", node=NodeId(3)).item == KeyValue(b"a", b"2", 1, 2, 2)
        assert client.range(Range(), node=NodeId(2)).items == result.items


def test_every_verb_of_the_async_client(cluster):
    async def story():
        async with AsyncClient(cluster.endpoints, GENEROUS_S) as client:
            assert (await client.put(b"a", b"1")).code == OutcomeCode.OK
            assert (await client.cas(b"a", b"0", b"2")).detail == b"1"
            assert (await client.batch([commands.put(b"b", b"")])).code == OutcomeCode.OK
            assert (await client.delete(b"b")).code == OutcomeCode.OK
            assert (await client.get(b"a")).item == KeyValue(b"a", b"1", 1, 1, 1)
            assert (await client.get(b"a", node=NodeId(2))).revision == 3
            assert len((await client.range(Range())).items) == 1
            puts = [client.put_nowait(b"k%d" % i, b"") for i in range(500)]
            revisions = [outcome.revision for outcome in await asyncio.gather(*puts)]
            assert sorted(revisions) == list(range(4, 504))

    asyncio.run(story())


def test_many_threads_share_one_client(cluster):
    def work(number: int) -> None:
        for i in range(40):
            client.put(b"%d-%d" % (number, i), b"v")

    with Client(cluster.endpoints, GENEROUS_S) as client:
        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert client.get(b"7-39").revision == 320


def test_operations_that_wait_together_travel_together(cluster):
    with Client(cluster.endpoints, GENEROUS_S) as client:
        client.put(b"k", b"")
        before = len(cluster.seen)
        futures = [client.put_nowait(b"k%d" % i, bytes(100)) for i in range(5_000)]
        assert all(future.result().code == OutcomeCode.OK for future in futures)
        assert len(cluster.seen) - before <= 1_000


def test_groups_are_served_side_by_side():
    with running(groups=4) as cluster, Client(cluster.endpoints, GENEROUS_S) as client:
        keys = [b"k%02d" % i for i in range(40)]
        for future in [client.put_nowait(key, key) for key in keys]:
            future.result()
        result = client.range(Range())
        assert [item.key for item in result.items] == keys
        assert len(result.revisions) == 4
        with pytest.raises(DefiniteError, match="different groups"):
            client.batch([commands.put(key, b"") for key in keys])


def test_large_values_survive(cluster):
    value = bytes(range(256)) * (VALUE_BYTES_MAX // 256)
    with Client(cluster.endpoints, GENEROUS_S) as client:
        client.put(b"large", value)
        item = client.get(b"large").item
        assert item is not None
        assert item.value == value


# --- faults -------------------------------------------------------------------------------


def test_the_leader_is_found_by_hint(cluster):
    cluster.leader = 3
    with Client(cluster.endpoints, GENEROUS_S) as client:
        client.put(b"k", b"v")
    # At most one wrong guess (of a node that was connected by then), then the session, the put.
    asked = [node for node, _ in cluster.seen]
    assert asked[-2:] == [3, 3]
    assert len(asked) <= 3


def once(fate: str) -> Fate:
    """The first put meets `fate`, everything else is served."""
    met: list[int] = []

    def decide(node: int, request: WriteRequest | ReadRequest) -> str:
        if is_put(request) and not met:
            met.append(node)
            return fate
        return "serve"

    return decide


@pytest.mark.parametrize("fate", ["busy", "drop", "mute", "twice", "lost"])
def test_a_put_survives_and_is_applied_once(cluster, fate):
    cluster.fate = once(fate)
    config = ClientConfig(request_timeout_ns=50_000_000)
    with Client(cluster.endpoints, GENEROUS_S, config) as client:
        assert client.put(b"k", b"v") == Outcome(OutcomeCode.OK, 1)
        assert client.put(b"other", b"v") == Outcome(OutcomeCode.OK, 2)
    assert fate in [fate for _, fate in cluster.seen]
    assert cluster.version(b"k") == 1


def test_the_death_of_the_leader_is_noticed_by_its_connection(cluster):
    with Client(cluster.endpoints, 60.0, ClientConfig(request_timeout_ns=4_000_000_000)) as client:
        client.put(b"a", b"")
        cluster.fate = once("mute")
        future = client.put_nowait(b"k", b"v")
        cluster.wait_for_fate(1, "mute")
        cluster.leader = 2
        started = time.monotonic()
        cluster.kill(1)
        assert future.result().code == OutcomeCode.OK
        # Long before the silence of 4 s would have been noticed.
        assert time.monotonic() - started < 3.5
        cluster.start(1)
    assert cluster.version(b"k") == 1


def test_a_node_that_comes_back_is_found_again():
    with running(nodes=1) as cluster, Client(cluster.endpoints, GENEROUS_S) as client:
        client.put(b"a", b"")
        cluster.kill(1)
        future = client.put_nowait(b"k", b"v")
        cluster.start(1)
        assert future.result().code == OutcomeCode.OK
        assert cluster.version(b"k") == 1


def test_without_a_cluster_an_operation_fails_definitely_in_time():
    with running(nodes=2) as cluster:
        endpoints = cluster.endpoints
    with Client(endpoints) as client:
        started = time.monotonic()
        with pytest.raises(NoQuorumError, match="not connected") as caught:
            client.put(b"k", b"v", timeout=0.2)
        assert isinstance(caught.value, DefiniteError)
        assert time.monotonic() - started < GENEROUS_S / 2


def test_an_unanswered_put_fails_indefinitely(cluster):
    cluster.fate = lambda node, request: "mute" if is_put(request) else "serve"
    with Client(cluster.endpoints) as client, pytest.raises(IndefiniteError):
        client.put(b"k", b"v", timeout=0.2)
    assert cluster.version(b"k") == 1


def test_a_foreign_cluster_is_a_definite_error(cluster):
    foreign = Endpoints(bytes(16), cluster.endpoints.nodes)
    with Client(foreign, GENEROUS_S) as client:
        with pytest.raises(DefiniteError, match="FOREIGN_CLUSTER this is another cluster"):
            client.put(b"k", b"v")
        with pytest.raises(DefiniteError, match="FOREIGN_CLUSTER"):
            client.get(b"k")


def test_bounds_are_definite_errors(cluster):
    with Client(cluster.endpoints) as client:
        with pytest.raises(DefiniteError, match="a value of"):
            client.put(b"k", bytes(VALUE_BYTES_MAX + 1))
        with pytest.raises(DefiniteError, match="a key of 0 bytes"):
            client.get(b"")
        with pytest.raises(DefiniteError, match="there is no node 9"):
            client.get(b"k", node=NodeId(9))
    assert cluster.seen == []


def test_a_full_client_refuses_definitely(cluster):
    cluster.fate = lambda node, request: "drop"
    with Client(cluster.endpoints, config=ClientConfig(pending_operations_max=10)) as client:
        futures = [client.put_nowait(b"k", b"v") for _ in range(10)]
        with pytest.raises(DefiniteError, match=r"are pending|wait for"):
            client.put(b"k", b"v")
    assert all(future.done() for future in futures)


# --- futures ------------------------------------------------------------------------------


def held(cluster: FakeCluster) -> None:
    """Puts are applied, and answered when `cluster.released` is set."""
    cluster.fate = lambda node, request: "hold" if is_put(request) else "serve"


def test_a_wait_that_times_out_leaves_the_operation_running(cluster):
    held(cluster)
    with Client(cluster.endpoints, GENEROUS_S) as client:
        future = client.put_nowait(b"k", b"v")
        with pytest.raises(TimeoutError):
            future.result(timeout=0.01)
        assert not future.done()
        cluster.released.set()
        assert future.result() == Outcome(OutcomeCode.OK, 1)
        assert future.exception() is None


def test_callbacks_run_once_whether_before_or_after_the_end(cluster):
    held(cluster)
    ran: list[object] = []
    with Client(cluster.endpoints, GENEROUS_S) as client:
        future = client.put_nowait(b"k", b"v")
        future.add_done_callback(ran.append)
        cluster.released.set()
        future.result()
        future.add_done_callback(ran.append)
    assert ran == [future, future]


def test_a_callback_that_fails_does_not_end_the_client(cluster, caplog):
    def fail(future):
        raise RuntimeError("the caller's own bug")

    with Client(cluster.endpoints, GENEROUS_S) as client:
        future = client.put_nowait(b"k", b"v")
        future.add_done_callback(fail)
        future.result()
        assert client.put(b"k", b"w").code == OutcomeCode.OK
    assert "the caller's own bug" in caplog.text


def test_many_waiters_of_one_future_all_wake(cluster):
    held(cluster)
    results: list[Outcome] = []
    with Client(cluster.endpoints, GENEROUS_S) as client:
        future = client.put_nowait(b"k", b"v")
        threads = [
            threading.Thread(target=lambda: results.append(future.result())) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        cluster.released.set()
        for thread in threads:
            thread.join()
    assert results == [Outcome(OutcomeCode.OK, 1)] * 8


def test_no_wake_up_is_lost_between_a_waiter_and_the_end():
    """Races `result` against `complete`; a lost wake-up would hang one of the waits."""
    from cluster.client_types import Completion, Get, Ticket

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(2_000):
            future: ClientFuture[GetResult] = ClientFuture(Get(b"k"), 0, None)
            completion = Completion(Ticket(1), GetResult(1, None))
            thread = threading.Thread(target=future.complete, args=(completion,))
            thread.start()
            assert future.result(timeout=GENEROUS_S) == GetResult(1, None)
            thread.join()
    finally:
        sys.setswitchinterval(interval)


def test_a_cancelled_await_does_not_disturb_the_others(cluster):
    held(cluster)

    async def story():
        async with AsyncClient(cluster.endpoints, GENEROUS_S) as client:
            cancelled = client.put_nowait(b"a", b"")
            kept = client.put_nowait(b"b", b"")
            cancelled.cancel()
            cluster.released.set()
            assert (await kept).code == OutcomeCode.OK
            assert cancelled.cancelled()

    asyncio.run(story())


# --- closing ------------------------------------------------------------------------------


def test_close_is_prompt_and_ends_what_is_pending(cluster):
    cluster.fate = lambda node, request: "mute" if is_put(request) else "serve"
    client = Client(cluster.endpoints, GENEROUS_S)
    future = client.put_nowait(b"k", b"v")
    cluster.wait_for_fate(1, "mute")
    started = time.monotonic()
    client.close()
    assert time.monotonic() - started < 5
    with pytest.raises(IndefiniteError, match="closed"):
        future.result()
    client.close()
    with pytest.raises(DefiniteError, match="closed"):
        client.put(b"k", b"v")
    assert not any(thread.name == "raftdeck-client" for thread in threading.enumerate())


def test_an_async_close_ends_what_is_pending(cluster):
    cluster.fate = lambda node, request: "mute"

    async def story():
        client = AsyncClient(cluster.endpoints, GENEROUS_S)
        future = client.put_nowait(b"k", b"v")
        await client.close()
        assert future.done()
        with pytest.raises(DefiniteError, match="closed"):
            await future
        with pytest.raises(DefiniteError, match="closed"):
            await client.put(b"k", b"v")

    asyncio.run(story())


def test_no_call_is_forgotten_when_a_close_overtakes_it(cluster):
    for _ in range(20):
        client = Client(cluster.endpoints, GENEROUS_S)
        futures: list[ClientFuture[Outcome]] = []
        under_way = threading.Event()
        submitter = threading.Thread(target=submit_until_closed, args=(client, futures, under_way))
        submitter.start()
        assert under_way.wait(GENEROUS_S)
        client.close()
        submitter.join()
        for future in futures:
            future.exception(timeout=GENEROUS_S)


def submit_until_closed(client, futures, under_way):
    try:
        while True:
            futures.append(client.put_nowait(b"k", b""))
            if len(futures) > 10:
                under_way.set()
    except DefiniteError:
        under_way.set()


def test_a_call_that_the_ended_thread_never_saw_is_refused_by_its_caller(cluster):
    client = Client(cluster.endpoints, GENEROUS_S)
    client.close()
    client._engine._stopping = False  # as `submit` saw it, an instant before the close
    future = client.put_nowait(b"k", b"v")
    with pytest.raises(DefiniteError, match="closed"):
        future.result(timeout=GENEROUS_S)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_in_the_clients_thread_hangs_nobody(cluster, monkeypatch):
    client = Client(cluster.endpoints, GENEROUS_S)
    client.put(b"k", b"v")
    monkeypatch.setattr(client._engine._core, "poll", lambda now: 1 / 0)
    with pytest.raises(DefiniteError, match="thread has failed"):
        client.put(b"k", b"v")
    with pytest.raises(DefiniteError, match="closed"):
        client.put(b"k", b"v")
    client.close()


def test_an_address_that_cannot_be_is_a_definite_error():
    with pytest.raises(DefiniteError, match="cannot connect"):
        Client(Endpoints(CLUSTER, {NodeId(1): f"ipc:///tmp/{'x' * 200}"}))


def test_a_program_that_forgets_to_close_still_exits():
    program = (
        "from cluster.client import Client, Endpoints\n"
        "client = Client(Endpoints(bytes(16), {1: 'ipc:///tmp/rd-nowhere.client'}))\n"
        "client.put_nowait(b'k', b'v')\n"
        "print('done')\n"
    )
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-c", program],
        cwd=root,
        capture_output=True,
        timeout=GENEROUS_S,
        check=False,
    )
    assert (run.returncode, run.stdout.strip(), run.stderr) == (0, b"done", b"")


def test_a_group_beyond_the_first_opens_its_own_session():
    with running(groups=2) as cluster, Client(cluster.endpoints, GENEROUS_S) as client:
        key = next(b"k%d" % i for i in range(99) if group_of(b"k%d" % i, 2) == GroupId(1))
        assert client.put(key, b"v") == Outcome(OutcomeCode.OK, 1)
        assert [machine.sessions for machine in cluster.machines] == [0, 1]


# --- bulks --------------------------------------------------------------------------------


def test_many_puts_under_one_future_over_real_sockets(cluster):
    pairs = [(b"k%d" % n, b"v%d" % n) for n in range(5_000)]
    with Client(cluster.endpoints, GENEROUS_S) as client:
        assert [o.revision for o in client.put_many(pairs)] == list(range(1, 5_001))
        future = client.submit_many([commands.delete(b"k1"), commands.delete(b"none")])
        assert [outcome.code for outcome in future.result()] == [0, 1]
        assert client.get(b"k1").item is None
        found = client.get(b"k4999").item
        assert found is not None
        assert found.value == b"v4999"
        with pytest.raises(DefiniteError, match="a key has"):
            client.put_many([(b"", b"")])


def test_a_bulk_that_was_committed_and_whose_answer_was_lost_is_applied_once(cluster):
    lost = iter([True])
    cluster.fate = lambda node, request: (
        "lost" if is_put(request) and next(lost, False) else "serve"
    )
    with Client(cluster.endpoints, GENEROUS_S) as client:
        result = client.put_many([(b"k%d" % n, b"v") for n in range(100)])
    assert [outcome.revision for outcome in result] == list(range(1, 101))
    assert {cluster.version(b"k%d" % n) for n in range(100)} == {1}


def test_a_bulk_that_cannot_be_answered_says_so_for_each_operation(cluster):
    cluster.fate = lambda node, request: "mute" if is_put(request) else "serve"
    with Client(cluster.endpoints, GENEROUS_S) as client:
        result = client.put_many_nowait([(b"a", b""), (b"b", b"")], 0.05).result()
        assert [type(error) for error in result.errors.values()] == [IndefiniteError] * 2
        with pytest.raises(IndefiniteError):
            client.put_many([(b"a", b"")], 0.05)


def test_callbacks_of_bulks_keep_a_loop_going(cluster):
    ended: list[int] = []
    done = threading.Event()
    with Client(cluster.endpoints, GENEROUS_S) as client:

        def again(future: ClientFuture[BulkResult]) -> None:
            ended.append(len(future.result().check()))
            if len(ended) < 50:
                client.put_many_nowait([(b"k", b"v")] * 10).add_done_callback(again)
            else:
                done.set()

        client.put_many_nowait([(b"k", b"v")] * 10).add_done_callback(again)
        assert done.wait(GENEROUS_S)
    assert ended == [10] * 50
    assert cluster.version(b"k") == 500


def test_bulks_on_an_asyncio_loop(cluster):
    async def story():
        async with AsyncClient(cluster.endpoints, GENEROUS_S) as client:
            result = await client.put_many([(b"a", b"1"), (b"b", b"2")])
            assert [outcome.revision for outcome in result] == [1, 2]
            deleted = await client.submit_many([commands.delete(b"none")])
            assert [outcome.code for outcome in deleted] == [OutcomeCode.ABSENT]

    asyncio.run(story())


def test_a_load_in_bulks_counts_every_operation(cluster):
    plan = LoadPlan(synthetic(100, 10), outstanding=40, operations=205, bulk=20)
    with Client(cluster.endpoints, GENEROUS_S) as client:
        report = Load(client, plan).run()
    assert (report.operations, report.acked, report.definite, report.indefinite) == (205, 205, 0, 0)
    assert report.p50_ms is not None


def test_a_load_in_bulks_counts_what_failed(cluster):
    cluster.fate = lambda node, request: "mute" if is_put(request) else "serve"
    plan = LoadPlan(synthetic(100, 10), outstanding=40, operations=40, bulk=20, timeout_s=0.1)
    with Client(cluster.endpoints, GENEROUS_S) as client:
        report = Load(client, plan).run()
    assert (report.acked, report.indefinite) == (0, 40)
