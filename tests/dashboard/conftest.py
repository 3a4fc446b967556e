"""A desk over scripted frames, hands that note what they were asked, and a clock that is set."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from cluster.actions import ACTIONS
from cluster.api import ActionResult
from cluster.exits import CommandError, Exit
from cluster.frames import Event
from dashboard.desk import Desk
from dashboard.source import FakeSource
from tests.dashboard.scenes import frames_of

STATES = {"kill": "killed", "stop": "stopped", "pause": "frozen"}


class FakeHands:
    """Notes every verb; it takes effect at once unless `refusal` says why not."""

    def __init__(self):
        self.did: list[tuple[str, str]] = []
        self.refusal = ""
        self.held: list[Future] = []
        self.hold = False

    def submit(self, action, selector):
        self.did.append((action.name, selector))
        future: Future = Future()
        if self.refusal:
            future.set_exception(CommandError(Exit.FAILED, self.refusal))
            return future
        if self.hold:
            self.held.append(future)
            return future
        names = [name for name in selector.split(",") if name[1:].isdigit()] or ["n2"]
        states = {name: STATES.get(action.name, "running") for name in names}
        nodes = tuple(int(name[1:]) for name in names)
        future.set_result(ActionResult(action.name, selector, nodes, states))
        return future

    def mark(self, text):
        self.did.append(("mark", text))
        future: Future = Future()
        if self.refusal:
            future.set_exception(CommandError(Exit.FAILED, self.refusal))
        else:
            future.set_result(Event(99, 0, "user", "mark", None, text))
        return future


class Rig:
    """A desk and everything around it."""

    def __init__(self, scene="healthy", nodes=5, *, kind="live", hands=True, groups=1, **options):
        self.frames = frames_of(scene, nodes, groups=groups)
        self.source = FakeSource(self.frames, kind)
        self.hands = FakeHands() if hands else None
        self.now_ms = self.frames[0].unix_ms
        self.desk = Desk(
            self.source,
            lambda: self.now_ms,
            hands=self.hands,
            actions=options.pop("actions", ACTIONS),
            **options,
        )
        if kind == "live":
            self.run()

    def run(self, steps=10_000):
        """Let frames arrive, one by one."""
        for _ in range(steps):
            if not self.source.advance():
                break
            newest = self.source.latest()
            assert newest is not None
            self.now_ms = newest.unix_ms
            self.desk.collect()

    def press(self, *keys):
        names = {":": "colon", "?": "question_mark", " ": "space", "/": "slash"}
        for key in keys:
            self.desk.press(names.get(key, key), key if len(key) == 1 else None)


@pytest.fixture
def rig():
    return Rig()


@pytest.fixture
def make_rig():
    return Rig
