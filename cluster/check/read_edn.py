"""Histories in EDN: one map per event, one after the other, in a vector, or as `{:history [ … ]}`."""

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
        held = form.value.get("history") if isinstance(form.value, Table) else None
        for value in held if isinstance(held, tuple) else (form.value,):
            if not isinstance(value, Table):
                raise HistoryError(form.line, f"{str(value)[:40]} is no event; an event is a map")
            yield event_of(value, form.line)
