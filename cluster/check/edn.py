"""Reads EDN, as Jepsen writes it: maps, vectors, lists, sets, strings, characters, atoms, tags.

Theory of operation. One regular expression cuts the text into tokens, a stack puts them together;
atoms are remembered, since a history repeats a few of them a hundred thousand times. A tagged value
(`#jepsen.history.Op{…}`, `#inst "…"`, `#:ns{…}`) is the value without its tag. Every value is hashable.

Own code: the one maintained library reads 2,700 lines a second (docs/adr/0008).
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterator
from typing import Final, NamedTuple

from cluster.check.history import HistoryError
from cluster.check.values import Keyword, Table

__all__ = ["Form", "read_forms", "read_words"]

_TOKEN: Final = re.compile(
    r"""[\s,]*(?:
      (?P<string>"(?:[^"\\]|\\.)*")
    | (?P<open>\#\{|\#_|[\[({])
    | (?P<close>[\])}])
    | (?P<tag>\#:{0,2}[A-Za-z][^\s,;"\[\](){}]*|\#(?=")|\#')
    | (?P<char>\\(?:newline|space|tab|return|formfeed|backspace|u[0-9A-Fa-f]{4}|.))
    | (?P<comment>;[^\n]*)
    | (?P<atom>\#<[^>\n]*>|(?:\#\#|[^\s,;"\[\](){}\\\#^@`~])[^\s,;"\[\](){}]*)
    | (?P<bad>\S)
    )""",
    re.VERBOSE | re.DOTALL,
)
_CLOSES: Final = {"[": "]", "(": ")", "{": "}", "#{": "}"}
_CHARACTERS: Final = {
    "newline": "\n", "space": " ", "tab": "\t", "return": "\r", "formfeed": "\f", "backspace": "\b",
}  # fmt: skip
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", '"': '"', "\\": "\\"}
_ESCAPE: Final = re.compile(r"\\(u[0-9A-Fa-f]{4}|.)", re.DOTALL)
_CONSTANTS: Final[dict[str, Hashable]] = {"nil": None, "true": True, "false": False}
_INTEGER: Final = re.compile(r"[+-]?\d+N?")
_FLOAT: Final = re.compile(r"[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?M?")
_HEXADECIMAL: Final = re.compile(r"[+-]?0[xX][0-9a-fA-F]+N?")
_ATOMS_MAX: Final = 100_000
"""Atoms remembered; the memory is dropped and begun anew beyond it."""
_DEPTH_MAX: Final = 200
_SHOWN_MAX: Final = 40


class Form(NamedTuple):
    """One value, and the line where it begins."""

    line: int
    value: Hashable


class _Frame:
    """A collection that is open: its bracket, where it began, its items."""

    __slots__ = ("bracket", "items", "offset", "pending")

    def __init__(self, bracket: str, offset: int) -> None:
        self.bracket = bracket
        self.offset = offset
        self.items: list[Hashable] = []
        self.pending: list[str] = []
        """Tags and discards (`#_`) that wait for the next value."""

    def keeps(self) -> bool:
        """Take what stands in front of a value; tell whether the value counts."""
        while self.pending:
            if self.pending.pop() == "#_":
                return False
        return True


def read_forms(text: str) -> Iterator[Form]:
    """Yield the values of a text; those of a vector or list on the outside one by one.

    Raises HistoryError with the line of the first thing that is no EDN.
    """
    newlines = [match.start() for match in re.finditer("\n", text)]
    reader = _Reader(text, lambda offset: bisect_left(newlines, offset) + 1)
    return (Form(reader.line(offset), value) for offset, value in reader.values(spread=True))


def read_words(text: str) -> list[Hashable]:
    """Return the values of one line, vectors whole, up to what is no EDN.

    Raises HistoryError (line 1) if that is the first one.
    """
    found: list[Hashable] = []
    try:
        for _, value in _Reader(text, lambda _: 1).values(spread=False):
            found.append(value)
    except HistoryError:
        if not found:
            raise
    return found


class _Reader:
    """One pass over a text."""

    def __init__(self, text: str, line: Callable[[int], int]) -> None:
        self.line = line
        self._text = text
        self._atoms: dict[str, Hashable] = {}
        self._stack = [_Frame("", 0)]

    def values(self, *, spread: bool) -> Iterator[tuple[int, Hashable]]:
        """Yield (offset, value) of what stands on the outside."""
        stack = self._stack
        for match in _TOKEN.finditer(self._text):
            kind = match.lastgroup
            if kind == "atom":
                value = self._atom(match["atom"], match.start("atom"))
                offset = match.start("atom")
            elif kind == "open":
                self._open(match["open"], match.start("open"))
                continue
            elif kind == "close":
                frame = self._close(match["close"], match.start("close"))
                if len(stack) == 1 and spread and frame.bracket in "[(":
                    stack[-1].pending.clear()
                    continue  # its items have been yielded
                value, offset = self._collection(frame), frame.offset
            elif kind == "string":
                value, offset = _string(match["string"]), match.start("string")
            elif kind == "char":
                value, offset = _character(match["char"][1:]), match.start("char")
            elif kind == "tag":
                stack[-1].pending.append(match["tag"])
                continue
            elif kind == "bad":
                raise HistoryError(
                    self.line(match.start("bad")), f"{match['bad']!r} is no EDN; or a quote is open"
                )
            else:
                continue  # a comment
            frame = stack[-1]
            if frame.pending and not frame.keeps():
                continue
            if len(stack) == 1 or (spread and len(stack) == 2 and frame.bracket in "[("):
                yield offset, value
            else:
                frame.items.append(value)
        if len(stack) > 1:
            frame = stack[-1]
            raise HistoryError(self.line(frame.offset), f"{frame.bracket!r} is never closed")

    def _open(self, bracket: str, offset: int) -> None:
        if bracket == "#_":
            self._stack[-1].pending.append(bracket)
            return
        if len(self._stack) > _DEPTH_MAX:
            raise HistoryError(self.line(offset), f"more than {_DEPTH_MAX} brackets are open")
        self._stack.append(_Frame(bracket, offset))

    def _close(self, bracket: str, offset: int) -> _Frame:
        frame = self._stack[-1]
        if len(self._stack) == 1 or _CLOSES[frame.bracket] != bracket:
            raise HistoryError(self.line(offset), f"{bracket!r} closes nothing")
        return self._stack.pop()

    def _collection(self, frame: _Frame) -> Hashable:
        items = frame.items
        if frame.bracket == "{":
            if len(items) % 2:
                raise HistoryError(self.line(frame.offset), "a map with a key and no value")
            return Table(zip(items[::2], items[1::2], strict=True))
        return frozenset(items) if frame.bracket == "#{" else tuple(items)

    def _atom(self, word: str, offset: int) -> Hashable:
        atoms = self._atoms
        if word in atoms:
            return atoms[word]
        if len(atoms) >= _ATOMS_MAX:
            atoms.clear()
        try:
            value = atoms[word] = _parsed(word)
        except ValueError:
            shown = word if len(word) <= _SHOWN_MAX else f"{word[:_SHOWN_MAX]}…"
            raise HistoryError(self.line(offset), f"{shown!r} is no EDN") from None
        return value


def _parsed(word: str) -> Hashable:
    """Return what an atom means; symbols stand for their names. ValueError: no EDN."""
    if word in _CONSTANTS:
        return _CONSTANTS[word]
    if word[0] == ":":
        if len(word) == 1:
            raise ValueError(word)
        return Keyword(word[1:])
    if _INTEGER.fullmatch(word):
        return int(word.rstrip("N"))
    if _FLOAT.fullmatch(word):
        return float(word.rstrip("M"))
    if _HEXADECIMAL.fullmatch(word):
        return int(word.rstrip("N"), 16)
    if word.startswith("##"):
        return float(word[2:])
    if word[0].isdigit() and "/" not in word:
        raise ValueError(word)
    return word


def _string(token: str) -> str:
    return _ESCAPE.sub(_unescaped, token[1:-1]) if "\\" in token else token[1:-1]


def _unescaped(match: re.Match[str]) -> str:
    name = match[1]
    return chr(int(name[1:], 16)) if len(name) > 1 else _ESCAPES.get(name, name)


def _character(name: str) -> str:
    if len(name) > 1 and name[0] == "u":
        return chr(int(name[1:], 16))
    return _CHARACTERS.get(name, name)
