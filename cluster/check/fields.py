"""From the fields of one event, whatever format they came in, to the event."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, Final

from cluster.check.history import NEMESIS, Event, EventType, HistoryError
from cluster.check.values import Keyword, freeze

__all__ = ["event_of", "event_type", "process_of"]

_TYPES: Final = {member.value: member for member in EventType}


def event_of(fields: Mapping[Any, Any], line: int) -> Event:
    """Return the event that a map describes. HistoryError if it describes none."""
    if "process" not in fields or "type" not in fields:
        missing = "process" if "process" not in fields else "type"
        raise HistoryError(line, f"an event without {missing!r}; it needs process, type and f")
    process = process_of(fields["process"])
    type_ = event_type(fields["type"], line)
    f = fields.get("f")
    if not isinstance(f, str) or not f:
        if process != NEMESIS:
            raise HistoryError(line, "an event without 'f', the name of what was done")
        f = ""
    error = fields.get("error")
    return Event(
        process, type_, f, freeze(fields.get("value")), freeze(fields.get("key")),
        _integer(fields, "time", line), _integer(fields, "position", line),
        None if error is None else _words(error), line, _integer(fields, "index", line),
    )  # fmt: skip


def process_of(value: Any) -> Hashable:
    """Return a process: a number or a name. A keyword is no client's, but the nemesis's."""
    if isinstance(value, Keyword) or (isinstance(value, str) and value.startswith(":")):
        return NEMESIS
    if isinstance(value, str):
        name = value
        if name.lstrip("-").isdigit():
            return int(name)
        return name
    return freeze(value)


def event_type(value: Any, line: int) -> EventType:
    """Return the type that a word names."""
    found = _TYPES.get(value.removeprefix(":")) if isinstance(value, str) else None
    if found is None:
        raise HistoryError(line, f"type {value!r}; it is one of {', '.join(_TYPES)}")
    return found


def _integer(fields: Mapping[Any, Any], name: str, line: int) -> int | None:
    value = fields.get(name)
    if value is None or type(value) is int:
        return value
    if type(value) is float and value.is_integer():
        return int(value)
    raise HistoryError(line, f"{name} {value!r}; it is a whole number")


def _words(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(_words(item) for item in value)
    return str(value)
