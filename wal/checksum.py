"""CRC-32C (Castagnoli): crcmod as reference and fallback, a hardware wheel as the fast path.

The fast implementation is chosen at import and proved bit-identical to the reference on a short
vector; one that differs is not used. Measured on an AMD EPYC at 64 KiB: `crc32c` 24 GB/s,
crcmod's C extension 0.45 GB/s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Final

import crcmod.predefined

__all__ = ["active", "crc32c", "function", "only_reference", "reference"]

Buffer = bytes | bytearray | memoryview
Checksum = Callable[[Buffer, int], int]

_reference_function = crcmod.predefined.mkPredefinedCrcFun("crc-32c")

_VECTOR: Final = bytes(range(256)) + b"123456789" * 7
"""Longer than any implementation's unrolled block, with every byte value."""
_CHECK: Final = 0xE3069283
"""CRC-32C of b"123456789" (RFC 3720, appendix B.4)."""


def reference(data: Buffer, value: int = 0) -> int:
    """Return the CRC-32C of `data`, continuing from `value`, by crcmod: the oracle."""
    result: int = _reference_function(bytes(data), value)
    return result


def agrees_with_reference(candidate: Checksum) -> bool:
    """Tell whether `candidate` equals crcmod on the proof vector, whole and continued."""
    view = memoryview(_VECTOR)
    halves = candidate(view[100:], candidate(bytearray(view[:100]), 0))
    whole = candidate(_VECTOR, 0)
    return candidate(b"123456789", 0) == _CHECK and whole == halves and whole == reference(_VECTOR)


def _from_crc32c() -> Checksum:
    function: Checksum = import_module("crc32c").crc32c
    return function


def _from_google() -> Checksum:
    extend = import_module("google_crc32c").extend

    def google(data: Buffer, value: int = 0) -> int:
        result: int = extend(value, bytes(data))
        return result

    return google


_CANDIDATES: Final = {"crc32c": _from_crc32c, "google-crc32c": _from_google}


def choose() -> tuple[str, Checksum]:
    """Return the name and function of the first fast implementation that is proved equal."""
    for name, load in _CANDIDATES.items():
        try:
            candidate = load()
        except ImportError:
            continue
        if agrees_with_reference(candidate):
            return name, candidate
    return "crcmod", reference


_active_name, _active_function = choose()


def crc32c(data: Buffer, value: int = 0) -> int:
    """Return the CRC-32C of `data`, continuing from `value` (0 to start)."""
    return _active_function(data, value)


def function() -> Checksum:
    """Return the function in use, for loops that call it often; both arguments must be given."""
    return _active_function


def active() -> str:
    """Name the implementation in use: `crc32c`, `google-crc32c` or `crcmod`."""
    return _active_name


@contextmanager
def only_reference() -> Iterator[None]:
    """Compute every CRC of this process with crcmod meanwhile (`wal verify --reference`)."""
    global _active_name, _active_function
    before = _active_name, _active_function
    _active_name, _active_function = "crcmod", reference
    try:
        yield
    finally:
        _active_name, _active_function = before
