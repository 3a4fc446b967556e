"""The living source of frames (`cluster.feed`), with stub nodes: what matters is the supervisor."""

import asyncio
import os
import signal
from collections import deque
from pathlib import Path

import pytest

from cluster.exits import CommandError, Exit
from cluster.feed import FeedState, FrameSource, LiveFeed
from cluster.frames import ProcessState
from cluster.local import LocalCluster
from cluster.paths import run_dir_of
from cluster.recording import Recording
from cluster.spec import ClusterSpec

pytestmark = pytest.mark.process
PATIENCE_S = 20


def launched(data_dir):
    planted = Path(__file__).resolve().parent.parent / "planted"
    spec = ClusterSpec(
        name="deck", data_dir=data_dir, entry_module="stub_node", entry_paths=(planted,)
    )
    return LocalCluster.launch(spec)


@pytest.fixture(scope="module")
def shared(shared_desk, tmp_path_factory):
    with launched(tmp_path_factory.mktemp("shared")) as cluster:
        cluster.wait_ready()
        yield cluster


@pytest.fixture
def cluster(shared):
    """The cluster that most tests share; every node runs again when a test is done with it."""
    yield shared
    if not all(part.process.state.alive for part in shared.frame().nodes):
        shared.start("down")
    shared.wait_ready()


def follow(story):
    """Run a coroutine with a feed of the cluster."""

    async def run():
        async with LiveFeed.attach("deck") as feed, asyncio.timeout(PATIENCE_S):
            return await story(feed)

    return asyncio.run(run())


async def until(feed, condition):
    while not (found := condition()):
        await feed.changed()
    return found


def test_a_feed_follows_acts_and_tells_who_did_it(cluster):
    async def story(feed):
        source: FrameSource = feed
        assert source.latest() is None
        await until(feed, source.latest)
        assert feed.state is FeedState.LIVE
        assert feed.supervisor_pid == cluster.supervisor_pid
        done, _ = await asyncio.gather(
            feed.act("kill", "n2", step="1: a follower dies"), feed.request("hello")
        )
        assert done.states == {"n2": "killed"}
        with pytest.raises(CommandError, match="valid are") as caught:
            await feed.act("kill", "n9")
        assert caught.value.exit_code is Exit.USAGE
        frame = await until(
            feed,
            lambda: feed.latest().node(2).process.state is ProcessState.KILLED and feed.latest(),
        )
        killed = feed.events()[-1]
        assert (killed.kind, killed.by) == ("killed", "step 1: a follower dies")
        assert feed.events_since(killed.sequence - 1) == (killed,)
        assert feed.frame_at(frame.unix_ms) == frame
        begin, end = source.span() or (0, 0)
        assert begin < end == frame.unix_ms
        sequences = [f.sequence for f in source.frames_since(0)]
        assert sequences == sorted(set(sequences))

    follow(story)


def test_who_attaches_late_has_the_history_and_a_slow_reader_the_newest(cluster, eventually):
    cluster.kill("n3")
    eventually(lambda: _last_state(cluster) is ProcessState.KILLED)
    killed_at = cluster.frame().unix_ms
    cluster.start("n3")
    eventually(lambda: _recorded(cluster, "started"))

    async def story(feed):
        await until(feed, lambda: feed.span() and feed.span()[0] < killed_at and feed.latest())
        past = feed.frame_at(killed_at)
        assert past.node(3).process.state is ProcessState.KILLED
        kept = [f.sequence for f in feed.frames_since(0)]
        assert kept == sorted(set(kept))
        assert kept[0] < feed._kept[0].sequence
        assert [e.sequence for e in feed.events()] == list(range(1, len(feed.events()) + 1))
        first = feed.latest().sequence
        blocked = [cluster.frame() for _ in range(20)]  # nobody drains meanwhile
        await feed.changed()
        await feed.changed()
        assert feed.latest().sequence > first
        assert feed.latest().unix_ms >= blocked[0].unix_ms

    follow(story)


def _last_state(cluster):
    """What the newest recorded frame says of node 3: a frame is made a moment after an event."""
    with Recording.open(cluster.spec.data_dir) as recording:
        frame = recording.latest()
        return frame and frame.node(3).process.state


def _recorded(cluster, kind):
    with Recording.open(cluster.spec.data_dir) as recording:
        return [event for event in recording.events() if event.kind == kind][3:]


def test_what_a_feed_keeps_is_bounded(cluster, monkeypatch):
    monkeypatch.setattr("cluster.feed.KEPT_FRAMES_MAX", 3)

    async def story(feed):
        seen: deque[int] = deque()
        while len(seen) < 6:
            await feed.changed()
            seen.append(feed.latest().sequence)
            assert len(feed._kept) <= 3
            assert feed._kept_bytes == sum(len(packed.body) for packed in feed._kept)

    follow(story)


def test_a_dead_supervisor_is_noticed_and_whoever_waits_is_told(desk, tmp_path, living, eventually):
    cluster = launched(tmp_path / "data")

    async def story(feed):
        await until(feed, feed.latest)
        os.kill(cluster.supervisor_pid, signal.SIGSTOP)
        waiting = asyncio.create_task(feed.act("kill", "n1"))
        await until(feed, lambda: feed.state is FeedState.SILENT)
        os.kill(cluster.supervisor_pid, signal.SIGKILL)
        while await feed.changed():
            pass
        assert feed.state is FeedState.GONE
        with pytest.raises(CommandError, match="its supervisor is gone") as caught:
            await waiting
        assert caught.value.exit_code is Exit.NO_CLUSTER
        with pytest.raises(CommandError):
            await feed.act("kill", "n1")
        assert feed.latest() is not None, "the last picture stays"

    follow(story)
    os.waitpid(cluster.supervisor_pid, 0)
    assert eventually(lambda: not living(str(desk)))
    with Recording.open(cluster.spec.data_dir) as recording:
        assert recording.latest() is not None, "what it was writing is read up to the cut"
    with pytest.raises(CommandError):
        LiveFeed(run_dir_of("deck"))
    cluster.close()
