"""Hands: what acts on a running cluster, one verb at a time, in a thread of their own.

The thread dies with the process: a supervisor that answers no more keeps nobody at the screen.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from typing import Final, TypeVar

from cluster.actions import Action
from cluster.api import ActionResult
from cluster.frames import Event
from cluster.local import LocalCluster

__all__ = ["LiveHands"]

CLOSE_S: Final = 1.0
"""How long a verb that is at work may keep the screen from ending."""

_Value = TypeVar("_Value")


class LiveHands:
    """Acts on a running cluster; satisfies `dashboard.deeds.Hands`."""

    def __init__(self, run_dir: Path) -> None:
        """Connect when the first verb comes."""
        self._run_dir = run_dir
        self._cluster: LocalCluster | None = None
        self._wishes: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="hands", daemon=True)
        self._thread.start()

    def submit(self, action: Action, selector: str) -> Future[ActionResult]:
        """Begin a verb; the future's error is a `CommandError` that says why not."""
        return self._wish(lambda cluster: action.run(cluster, selector, None))

    def mark(self, text: str) -> Future[Event]:
        """Put a mark into the events and the recording."""
        return self._wish(lambda cluster: cluster.mark(text))

    def close(self) -> None:
        """Let go; a verb that does not end is left to itself."""
        self._wishes.put(None)
        self._thread.join(CLOSE_S)

    def _wish(self, what: Callable[[LocalCluster], _Value]) -> Future[_Value]:
        future: Future[_Value] = Future()

        def work() -> None:
            try:
                future.set_result(what(self._connected()))
            except Exception as error:  # whoever asked is told, whatever it was
                future.set_exception(error)

        self._wishes.put(work)
        return future

    def _connected(self) -> LocalCluster:
        if self._cluster is None:
            self._cluster = LocalCluster(self._run_dir)
        return self._cluster

    def _work(self) -> None:
        while (work := self._wishes.get()) is not None:
            work()
        if self._cluster is not None:
            self._cluster.close()
