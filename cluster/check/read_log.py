"""Histories in log text: a line per event, among other lines.

    INFO  jepsen.util - 4	:invoke	:write	3
    INFO  jepsen.util - 4	:ok	:write	3

What stands in front of the process, and how much space is between the words, does not count. Lines
without `:invoke`, `:ok`, `:fail` or `:info` behind a process are other log lines, and skipped. What
follows the value is the error's text, and need not be EDN.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from cluster.check.edn import read_words
from cluster.check.fields import event_type, process_of
from cluster.check.history import NEMESIS, Event, EventType, HistoryError

__all__ = ["read_log"]

_EVENT: Final = re.compile(
    r"(?:^|[\s:-])(?P<process>\d+|:?[A-Za-z][\w.-]*)\s+:(?P<type>invoke|ok|fail|info)\b"
    r"(?:\s+:?(?P<f>[^\s,\[\]{}\"]+))?(?P<rest>.*)$"
)

_LINE_END: Final = re.compile(r"\r\n|\r|\n")
"""No other: a value may hold what `str.splitlines` also takes for an end."""


def read_log(text: str) -> Iterator[Event]:
    """Yield the events of a log. Raises HistoryError; also if no line is an event."""
    found = False
    for number, line in enumerate(_LINE_END.split(text), 1):
        match = _EVENT.search(line)
        if match is None:
            continue
        found = True
        yield _event_of(match, number)
    if not found:
        raise HistoryError(
            1, "no event here; a line reads: PROCESS :invoke|:ok|:fail|:info :f VALUE"
        )


def _event_of(match: re.Match[str], line: int) -> Event:
    process = process_of(match["process"])
    type_ = event_type(match["type"], line)
    if process == NEMESIS:
        return Event(process, type_, match["f"] or "", line=line)
    if match["f"] is None:
        raise HistoryError(line, f"process {process} :{match['type']}: what was done is missing")
    try:
        values = read_words(match["rest"])
    except HistoryError as error:
        if type_ in (EventType.INFO, EventType.FAIL):  # an error's text, whose value is not needed
            return Event(process, type_, match["f"], error=match["rest"].strip(), line=line)
        raise HistoryError(line, str(error).partition(": ")[2]) from None
    value = values[0] if values else None
    said = " ".join(str(word) for word in values[1:]) or None
    return Event(process, type_, match["f"], value, error=said, line=line)
