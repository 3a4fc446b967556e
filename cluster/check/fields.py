"""From the fields of one event, whatever format they came in, to the event."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, Final

from cluster.check.history import NEMESIS, Event, EventType, HistoryError
from cluster.check.values import Keyword, freeze

__all__ = ["event_of", "event_type", "process_of"]

TRANSACTION: Final = "txn"
"""What a transaction's event says that was done, also where it says nothing."""

_VAGUE: Final = (EventType.INFO.value, EventType.FAIL.value)
"""How a transaction ends of whose steps nothing is told."""
_TYPES: Final = {member.value: member for member in EventType}


def event_of(fields: Mapping[Any, Any], line: int) -> Event:
    """Return the event that a map describes. HistoryError if it describes none."""
    if "process" not in fields or "type" not in fields:
        fields = _plain_names(fields)
    value = freeze(fields.get("value"))
    f = fields.get("f")
    if f is None and (_is_transaction(value) or (value is None and fields.get("type") in _VAGUE)):
        f = TRANSACTION
    if "type" not in fields or ("process" not in fields and f != TRANSACTION):
        missing = "type" if "type" not in fields else "process"
        raise HistoryError(line, f"an event without {missing!r}; it needs process, type and f")
    process = process_of(fields.get("process", f"line {line}"))
    type_ = event_type(fields["type"], line)
    if isinstance(f, Keyword) and "/" in f:
        f = Keyword(f.rpartition("/")[2])
    f = f.removeprefix(":") if isinstance(f, str) else ""
    if not f and process != NEMESIS:
        raise HistoryError(line, "an event without 'f', the name of what was done")
    error = fields.get("error")
    return Event(
        process, type_, f, value, freeze(fields.get("key")),
        _time(fields, line), _integer(fields, "position", line),
        None if error is None else _words(error), line, _integer(fields, "index", line),
    )  # fmt: skip


def _plain_names(fields: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return the fields by the last part of their names: `:type`, `:jepsen/type` and `type` are one."""
    return {
        str(name).removeprefix(":").rpartition("/")[2] if isinstance(name, str) else name: value
        for name, value in fields.items()
    }


def _is_transaction(value: Hashable) -> bool:
    """Tell whether a value is `[[f key value] …]`; Elle's examples do not name what was done."""
    return (
        isinstance(value, tuple)
        and bool(value)
        and all(isinstance(step, tuple) and len(step) == 3 for step in value)
    )


def process_of(value: Any) -> Hashable:
    """Return a process: a number or a name. A keyword is no client's, but the nemesis's; so is nil."""
    if (
        value is None
        or isinstance(value, Keyword)
        or (isinstance(value, str) and value.startswith(":"))
    ):
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


def _time(fields: Mapping[Any, Any], line: int) -> int | None:
    """Return an event's time; a fraction (seconds?) is none: then the order of the lines counts."""
    value = fields.get("time")
    if type(value) is float and not value.is_integer():
        return None
    return _integer(fields, "time", line)


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
