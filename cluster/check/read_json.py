"""Histories in JSON: our lines, an array of events, or Porcupine-style operations.

Our format (`raftdeck.history/1`) is one event per line, told as it happens:

    {"schema": "raftdeck.history/1", "model": "register"}
    {"process": 0, "type": "invoke", "f": "write", "key": "k1", "value": 3, "time": 1200}
    {"process": 0, "type": "ok", "f": "write", "key": "k1", "value": 3, "time": 3400, "position": 7}

The first line may be missing; lines that begin with `#` or `//` are skipped. `{"history": [ … ]}` is a
list of events. `time` is ns of one clock; `position` is where the operation stands in
the committed order (of its key's group), if the answer says so. Bytes that are no text are written
`{"base64": "…"}`.

A Porcupine-style line is one operation: `{"ClientId", "Input", "Call", "Output", "Return"}`, with
`Input` = `{"f", "key", "value"}` and `Output` = `{"value"}`, `{"failed": true}`, or null if unknown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from cluster.check.fields import event_of
from cluster.check.history import Event, EventType, HistoryError
from cluster.check.values import freeze

__all__ = ["HISTORY_SCHEMA", "read_json"]

HISTORY_SCHEMA: Final = "raftdeck.history/1"
_HELD: Final = re.compile(r'\s*\{\s*"history"\s*:\s*\[')
"""An object around the list of events."""
_HUGE: Final = "a number of more than 4,300 digits"


def read_json(text: str) -> Iterator[Event]:
    """Yield the events of a JSON text. Raises HistoryError."""
    is_whole = text.lstrip().startswith("[") or _HELD.match(text) is not None
    documents = _array(text) if is_whole else _lines(text)
    operations: list[tuple[int, dict[str, Any]]] = []
    for line, document in documents:
        if "ClientId" in document:
            operations.append((line, document))
        elif "schema" in document and "process" not in document:
            if document["schema"] != HISTORY_SCHEMA:
                raise HistoryError(
                    line, f"schema {document['schema']!r}; this reads {HISTORY_SCHEMA}"
                )
        else:
            yield event_of(document, line)
    yield from _events_of(operations)


def _lines(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line and not line.isspace() and not line.lstrip().startswith(("#", "//")):
            try:
                document = json.loads(line)
            except json.JSONDecodeError as error:
                raise HistoryError(number, f"no JSON: {error}") from None
            except ValueError:
                raise HistoryError(number, _HUGE) from None
            yield number, _checked(document, number)


def _array(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        documents = json.loads(text)
    except json.JSONDecodeError as error:
        raise HistoryError(error.lineno, f"no JSON: {error.msg}") from None
    except ValueError:
        raise HistoryError(0, _HUGE) from None
    if isinstance(documents, dict):
        documents = documents["history"]
        if not isinstance(documents, list):
            raise HistoryError(0, "'history' is no list of events")
    for number, document in enumerate(documents, 1):
        yield number, _checked(document, number)


def _checked(document: Any, line: int) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise HistoryError(line, f"{str(document)[:40]!r} is no event; an event is an object")
    return document


def _events_of(operations: list[tuple[int, dict[str, Any]]]) -> Iterator[Event]:
    """Take operations apart and put their ends in order: of equal times, calls come first."""
    ends: list[tuple[int, int, Event]] = []
    for number, (line, document) in enumerate(operations):
        call, ret = document.get("Call"), document.get("Return")
        asked = document.get("Input")
        if type(call) is not int or not isinstance(asked, Mapping) or "f" not in asked:
            raise HistoryError(line, "an operation needs ClientId, Call (ns) and Input with 'f'")
        # A client may have given an operation up and gone on: each is its own process.
        process = f"{document['ClientId']}/{number}"
        f, key, value = str(asked["f"]), freeze(asked.get("key")), freeze(asked.get("value"))
        ends.append((call, 0, Event(process, EventType.INVOKE, f, value, key, call, line=line)))
        said = document.get("Output")
        if type(ret) is not int or not isinstance(said, Mapping) or said.get("unknown"):
            continue
        type_ = EventType.FAIL if said.get("failed") else EventType.OK
        position = said.get("position")
        if position is not None and type(position) is not int:
            raise HistoryError(line, f"position {position!r}; it is a whole number")
        ended = Event(
            process, type_, f, freeze(said.get("value")), key, ret, position,
            said.get("error"), line,
        )  # fmt: skip
        ends.append((ret, 1, ended))
    ends.sort(key=lambda end: end[:2])
    return (event for _, _, event in ends)
