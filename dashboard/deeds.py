"""What was done from the desk: verbs at work, whose doing they were, and what undoes the last."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Final, Protocol

from cluster.actions import Action
from cluster.api import ActionResult
from cluster.exits import CommandError
from cluster.frames import Event
from dashboard.presenter.view import Deed

__all__ = ["Deeds", "Hands"]

DEEDS_MAX: Final = 200
OPEN_END_MS: Final = 1 << 62


class Hands(Protocol):
    """What acts on the cluster; a future's error is a `CommandError`."""

    def submit(self, action: Action, selector: str) -> Future[ActionResult]:
        """Begin a verb on the nodes that a selector names."""

    def mark(self, text: str) -> Future[Event]:
        """Put a mark into the events and the recording."""


@dataclass(frozen=True, slots=True)
class _Done:
    """A verb that took effect and can be taken back."""

    action: Action
    nodes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _AtWork:
    """A verb that has not ended; `undoing` verbs are not undone in turn."""

    future: Future[ActionResult]
    action: Action
    deed: Deed
    undoing: bool


class Deeds:
    """The verbs of one desk."""

    def __init__(self, hands: Hands) -> None:
        self.all: tuple[Deed, ...] = ()
        """For the causes of events; of very many, the newest."""
        self._hands = hands
        self._done: list[_Done] = []
        self._at_work: list[_AtWork] = []
        self._marks: list[Future[Event]] = []

    def begin(self, action: Action, selector: str, deed: Deed, *, undoing: bool = False) -> None:
        """Begin a verb; `deed` says when, on whom and by whose doing."""
        deed = replace(deed, end_ms=OPEN_END_MS)
        self.all = (*self.all[-DEEDS_MAX:], deed)
        future = self._hands.submit(action, selector)
        self._at_work.append(_AtWork(future, action, deed, undoing))

    def mark(self, text: str) -> None:
        """Put a mark into the recording."""
        self._marks.append(self._hands.mark(text))

    def finish(self, now_ms: int) -> list[str]:
        """Look which verbs have ended; return what to tell of each."""
        ended = [work for work in self._at_work if work.future.done()]
        marked = [future for future in self._marks if future.done()]
        self._marks = [future for future in self._marks if not future.done()]
        told = [_marked(future) for future in marked]
        return [*told, *(self._finished(work, now_ms) for work in ended)]

    def _finished(self, work: _AtWork, now_ms: int) -> str:
        self._at_work.remove(work)
        action, error = work.action, work.future.exception()
        result = None if error else work.future.result()
        nodes = result.nodes if result else work.deed.nodes
        closed = replace(work.deed, end_ms=now_ms, nodes=nodes)
        self.all = tuple(closed if deed is work.deed else deed for deed in self.all)
        if result is None:
            known = isinstance(error, CommandError)
            return f"{action.name}: {error if known else f'{type(error).__name__}: {error}'}"
        undoable = action.reversible and not work.undoing
        if undoable:
            self._done.append(_Done(action, result.nodes))
        states = ", ".join(f"{name} {state}" for name, state in result.states.items())
        undo = f"   u: {action.undone_by}" if undoable else ""
        return f"{action.name}: {states}{undo}   {' '.join(result.notes)}".rstrip()

    def take_last(self, actions: Sequence[Action]) -> tuple[Action, str] | None:
        """Forget the last verb that can be undone; return what undoes it, and on whom."""
        while self._done:
            done = self._done.pop()
            undoing = next((a for a in actions if a.name == done.action.undone_by), None)
            if undoing is not None:
                return undoing, ",".join(f"n{node}" for node in done.nodes)
        return None


def _marked(future: Future[Event]) -> str:
    error = future.exception()
    return f"{future.result().text!r} is in the recording" if error is None else f"mark: {error}"
