"""What a desk knows of a tour; `dashboard.conductor` plays one."""

from __future__ import annotations

from typing import Protocol

from dashboard.presenter.view import Verdict

__all__ = ["Tour"]


class Tour(Protocol):
    """A scripted tour that runs beside the desk; every method returns at once."""

    @property
    def caption(self) -> str:
        """What is about to happen, and why."""

    @property
    def verdict(self) -> Verdict | None:
        """What the tour's writer (and at the end its check) has found so far."""

    def go_on(self) -> None:
        """Do the next step now."""

    def pause(self) -> None:
        """Pause, or go on."""

    def take_over(self) -> None:
        """A person acts by hand: pause."""
