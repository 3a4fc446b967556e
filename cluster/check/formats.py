"""Tells which format a history is in, and reads it: the only place where formats are chosen."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Final

from cluster.check.history import Event, History, HistoryError, build_history
from cluster.check.read_edn import read_edn
from cluster.check.read_json import read_json
from cluster.check.read_log import read_log

__all__ = ["Format", "read_history", "sniff"]


class Format(Enum):
    """The formats that can be read."""

    JSON = "json"
    """Our JSON lines, a JSON array of events (elle-cli), or Porcupine-style operations."""
    EDN = "edn"
    """Jepsen's history.edn, or a map per line, such as the key-value logs."""
    LOG = "log"
    """The text that `jepsen.util` logs, or Jepsen's history.txt."""


_READERS: Final[dict[Format, Callable[[str], Iterator[Event]]]] = {
    Format.JSON: read_json,
    Format.EDN: read_edn,
    Format.LOG: read_log,
}
_JSON_BEGINS: Final = re.compile(r'\s*(?:\{\s*"|\[\s*(?:\{\s*"|\]\s*$)|\{\s*\}\s*$)')
_EDN_BY_TEXT: Final = re.compile(
    r'\s*\[?\s*\{\s*"(?:[^"\\]|\\.)*"\s+(?::(?!true|false|null)[A-Za-z]|[^\s:])'
)
"""A map whose keys are texts: behind the first one stands a value, and no colon by itself."""
_EDN_BEGINS: Final = re.compile(r"\s*[\[({#;]")


def sniff(text: str) -> Format:
    """Return the format that a text begins as. HistoryError if it is empty."""
    if not text.strip():
        raise HistoryError(0, "empty: there is no event in it")
    if _JSON_BEGINS.match(text) and not _EDN_BY_TEXT.match(text):
        return Format.JSON
    return Format.EDN if _EDN_BEGINS.match(text) else Format.LOG


def read_history(content: bytes, format_: Format | None = None) -> History:
    """Read a history; without a format, the text says which it is. Raises HistoryError."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise HistoryError(line, f"byte {error.start} is no UTF-8; a history is text") from None
    reader = _READERS[format_ or sniff(text)]
    try:
        history = build_history(reader(text))
    except RecursionError:
        raise HistoryError(0, "its values are nested too deep; no history's are") from None
    if not history.operations:
        raise HistoryError(0, "no operation in it: every event is the nemesis's, or there is none")
    return history
