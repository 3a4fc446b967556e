"""Values of histories: hashable all the way down, with what EDN knows and JSON does not."""

from __future__ import annotations

from collections.abc import Hashable
from contextlib import suppress
from typing import Any

__all__ = ["Keyword", "Table", "freeze", "thaw"]


class Keyword(str):
    """An EDN keyword, without its colon; equal to the text of the same letters."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Return the keyword as EDN writes it."""
        return f":{self}"


class Table(dict[Hashable, Hashable]):
    """A map that is never changed, and so can be hashed."""

    __slots__ = ()

    def __hash__(self) -> int:  # type: ignore[override]  # a dict has none; this one stays as it is
        return hash(frozenset(self.items()))


def freeze(value: Any) -> Hashable:
    """Return a value of JSON as a hashable one: lists become tuples, objects tables."""
    if isinstance(value, list):
        return tuple([freeze(item) for item in value])
    if isinstance(value, dict):
        if value.keys() == {"base64"} and isinstance(value["base64"], str):
            with suppress(ValueError):  # a map that only looks like it
                return _bytes_of(value["base64"])
        return Table((key, freeze(item)) for key, item in value.items())
    assert isinstance(value, Hashable)
    return value


def thaw(value: Hashable) -> Any:
    """Return a value as `json.dumps` takes it; sets become sorted lists, keys of maps text."""
    if isinstance(value, tuple):
        return [thaw(item) for item in value]
    if isinstance(value, Table):
        return {_name(key): thaw(item) for key, item in value.items()}
    if isinstance(value, frozenset):
        return [thaw(item) for item in sorted(value, key=repr)]
    if isinstance(value, bytes):
        return _text_or_base64(value)
    return value


def _name(key: Hashable) -> str:
    return key if isinstance(key, str) else str(thaw(key))


def _bytes_of(text: str) -> bytes:
    import base64

    return base64.b64decode(text, validate=True)


def _text_or_base64(value: bytes) -> Any:
    import base64

    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}
