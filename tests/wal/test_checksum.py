"""CRC-32C: every implementation against crcmod, the oracle (DESIGN §5)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wal import checksum

Checksum = checksum.Checksum

# RFC 3720, appendix B.4
VECTORS = [
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(range(31, -1, -1)), 0x113FDB5C),
    (b"123456789", 0xE3069283),
]


@pytest.mark.parametrize(("data", "expected"), VECTORS)
def test_the_published_vectors_hold(data: bytes, expected: int) -> None:
    assert checksum.crc32c(data) == expected
    assert checksum.reference(data) == expected


@given(st.binary(max_size=300), st.integers(0, 300))
def test_the_active_implementation_is_the_reference_bit_for_bit(data: bytes, cut: int) -> None:
    expected = checksum.reference(data)
    assert checksum.crc32c(data) == expected
    assert checksum.crc32c(memoryview(data)[cut:], checksum.crc32c(data[:cut])) == expected
    assert checksum.crc32c(bytearray(data)) == expected


def wrong_in_one_bit(data: checksum.Buffer, value: int) -> int:
    return checksum.reference(data, value) ^ (1 if len(data) > 200 else 0)


def ignores_the_start_value(data: checksum.Buffer, value: int) -> int:
    del value
    return checksum.reference(data)


@pytest.mark.parametrize("candidate", [wrong_in_one_bit, ignores_the_start_value])
def test_an_implementation_that_differs_is_not_chosen(
    candidate: Checksum, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not checksum.agrees_with_reference(candidate)
    monkeypatch.setattr(checksum, "_CANDIDATES", {"broken": lambda: candidate})
    assert checksum.choose() == ("crcmod", checksum.reference)


def test_without_a_fast_wheel_the_reference_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Checksum:
        raise ImportError("no wheel")

    monkeypatch.setattr(checksum, "_CANDIDATES", {"missing": missing})
    assert checksum.choose() == ("crcmod", checksum.reference)


def test_the_fast_wheel_of_the_lock_is_in_use() -> None:
    assert checksum.active() == "crc32c"
    with checksum.only_reference():
        assert checksum.active() == "crcmod"
        assert checksum.crc32c(b"123456789") == 0xE3069283
    assert checksum.active() == "crc32c"
