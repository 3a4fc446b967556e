"""Writes a history for other checkers: our lines, Jepsen's EDN, elle-cli's JSON, Porcupine's style.

jsonl      raftdeck.history/1 (`read_json` draws it)
edn        {:index 0, :time 120, :process 2, :type :invoke, :f :read, :value nil}; an operation
           on a key has the value [key value], as Jepsen's independent writes it
elle       the same as a JSON array; transactions as [["append", "x", 1], ["r", "y", null]]
porcupine  {"ClientId", "Input", "Call", "Output", "Return", "Metadata"}, one operation per line;
           without times, ranks stand for them; an open operation returns behind all others
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, Final, TextIO

from cluster.check.history import NEVER, Event, History, Operation, Status
from cluster.check.read_json import HISTORY_SCHEMA
from cluster.check.values import Keyword, Table, thaw

__all__ = ["EXPORTS", "edn", "export_history", "line_of"]

_KEYWORD: Final = re.compile(r"[A-Za-z*!_?<>=][\w*!?<>=./+-]*")
_FOREVER: Final = (1 << 63) - 1


def export_history(history: History, kind: str, stream: TextIO, model: str) -> int:
    """Write a history in one of `EXPORTS`; return the number of lines."""
    count = 0
    for line in EXPORTS[kind](history, model):
        stream.write(line + "\n")
        count += 1
    return count


def line_of(event: Event) -> str:
    """Return an event as a line of our own format, without the newline."""
    fields: dict[str, Any] = {
        "process": thaw(event.process), "type": event.type.value, "f": event.f
    }  # fmt: skip
    if event.key is not None:
        fields["key"] = thaw(event.key)
    fields["value"] = thaw(event.value)
    for name in ("time", "position", "error"):
        value = getattr(event, name)
        if value is not None:
            fields[name] = value
    return json.dumps(fields, ensure_ascii=False)


def _jsonl(history: History, model: str) -> Iterator[str]:
    yield json.dumps({"schema": HISTORY_SCHEMA, "model": model})
    for event in history.events():
        yield line_of(event)


def _jepsen_fields(number: int, event: Event) -> dict[str, Any]:
    """Return what Jepsen keeps of an event."""
    value = event.value if event.key is None else (event.key, event.value)
    fields: dict[str, Any] = {
        "index": number,
        "time": number if event.time is None else event.time,
        "process": event.process,
        "type": Keyword(event.type.value),
        "f": Keyword(event.f),
        "value": value,
    }
    if event.error is not None:
        fields["error"] = event.error
    return fields


def _edn(history: History, model: str) -> Iterator[str]:
    del model
    for number, event in enumerate(history.events()):
        fields = _jepsen_fields(number, event)
        fields["value"] = _with_keywords(fields["value"]) if event.f == "txn" else fields["value"]
        yield "{" + ", ".join(f":{name} {edn(value)}" for name, value in fields.items()) + "}"


def _with_keywords(value: Hashable) -> Hashable:
    """Return the steps of a transaction with the names that Elle knows."""
    if not isinstance(value, tuple):
        return value
    return tuple(
        (Keyword(step[0]), *step[1:])
        if isinstance(step, tuple) and step and isinstance(step[0], str) else step
        for step in value
    )  # fmt: skip


def _elle(history: History, model: str) -> Iterator[str]:
    del model
    lines = [
        json.dumps(
            {name: thaw(value) for name, value in _jepsen_fields(n, event).items()},
            ensure_ascii=False,
        )
        for n, event in enumerate(history.events())
    ]
    yield "[" + (lines[0] + "," if len(lines) > 1 else "".join(lines))
    yield from (f" {line}," for line in lines[1:-1])
    yield (f" {lines[-1]}" if len(lines) > 1 else "") + "]"


def _porcupine(history: History, model: str) -> Iterator[str]:
    clients: dict[Hashable, int] = {}
    for op in history.operations:
        client = clients.setdefault(op.process, len(clients))
        yield json.dumps(
            {
                "ClientId": client,
                "Input": {"f": op.f, "key": thaw(op.key), "value": thaw(op.argument)},
                "Call": op.call if op.call_ns is None else op.call_ns,
                "Output": _output(op),
                "Return": _return(op),
                "Metadata": {"model": model, "line": op.line},
            },
            ensure_ascii=False,
        )


def _output(op: Operation) -> dict[str, Any]:
    if op.status is Status.INFO:
        return {"unknown": True}
    said: dict[str, Any] = {"value": thaw(op.result)}
    if op.status is Status.FAIL:
        said["failed"] = True
    if op.position is not None:
        said["position"] = op.position
    return said


def _return(op: Operation) -> int:
    if op.status is Status.INFO or op.ret == NEVER:
        return _FOREVER
    return op.ret if op.call_ns is None or op.ret_ns is None else op.ret_ns


EXPORTS: Final[Mapping[str, Callable[[History, str], Iterator[str]]]] = {
    "jsonl": _jsonl,
    "edn": _edn,
    "elle": _elle,
    "porcupine": _porcupine,
}
"""The formats that can be written: lines without their newlines."""


def edn(value: Any) -> str:
    """Return a value as EDN."""
    if value is None:
        return "nil"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Keyword):
        return f":{value}" if _KEYWORD.fullmatch(value) else json.dumps(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, tuple):
        return "[" + " ".join(edn(item) for item in value) + "]"
    if isinstance(value, Table):
        return "{" + ", ".join(f"{edn(key)} {edn(item)}" for key, item in value.items()) + "}"
    if isinstance(value, frozenset):
        return "#{" + " ".join(sorted(edn(item) for item in value)) + "}"
    if isinstance(value, bytes):
        return edn(thaw(value)) if isinstance(thaw(value), str) else edn(Table(thaw(value)))
    return str(value)
