"""Histories in EDN: one map per event, one after the other or in a vector."""

from __future__ import annotations

from collections.abc import Iterator

from cluster.check.edn import read_forms
from cluster.check.fields import event_of
from cluster.check.history import Event, HistoryError
from cluster.check.values import Table

__all__ = ["read_edn"]


def read_edn(text: str) -> Iterator[Event]:
    """Yield the events of an EDN text. Raises HistoryError."""
    for form in read_forms(text):
        if not isinstance(form.value, Table):
            raise HistoryError(form.line, f"{form.value!r} is no event; an event is a map")
        yield event_of(form.value, form.line)
