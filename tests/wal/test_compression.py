"""Compressed bodies: exact, worth it or left alone, and never larger than they may be."""

from __future__ import annotations

import random
import sys
from importlib import import_module
from struct import pack

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.wal.support import ROOT
from wal import FrameError, OtherFormatError
from wal import compression as module
from wal.compression import (
    BODY_BYTES_MIN,
    CODECS,
    SAMPLED_FROM,
    Codec,
    MissingCodecError,
    codec_of,
    compress,
    decompress,
)
from wal.filesystem import Buffer

REAL = [Codec.LZ4, Codec.ZSTD]
LIMIT = 1 << 20
TEXT = b"081109 203615 148 INFO dfs.DataNode$PacketResponder: PacketResponder 1 terminating\n" * 50
NOISE = random.Random(1).randbytes(200_000)

every_codec = pytest.mark.parametrize("codec", REAL, ids=lambda codec: codec.name)


@every_codec
@given(body=st.binary(max_size=3000), times=st.integers(1, 40))
@example(body=b"", times=1)
@example(body=b"a", times=BODY_BYTES_MIN)
def test_what_is_stored_becomes_what_it_was(codec: Codec, body: bytes, times: int) -> None:
    plain = body * times
    stored = compress(codec, memoryview(plain))
    if stored is None:
        return
    assert len(stored) <= len(plain) - len(plain) // 8, "else it is not worth it"
    assert decompress(codec, memoryview(stored), len(plain)) == plain


@every_codec
def test_noise_and_short_bodies_are_left_alone(codec: Codec) -> None:
    assert compress(codec, NOISE) is None
    assert compress(codec, NOISE[:300]) is None
    assert compress(codec, b"x" * (BODY_BYTES_MIN - 1)) is None
    assert compress(codec, b"x" * BODY_BYTES_MIN) is not None
    assert compress(Codec.NONE, TEXT) is None


@every_codec
def test_samples_decide_for_a_long_body(codec: Codec) -> None:
    """What is noise wherever one looks is not tried as a whole; text behind a noisy head is."""
    calls: list[int] = []
    real = module._functions(codec)

    def counted(body: Buffer) -> bytes:
        calls.append(len(body))
        return real.compress(body)

    fake = real._replace(compress=counted)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_functions", lambda _: fake)
        assert compress(codec, NOISE[:SAMPLED_FROM]) is None
        assert compress(codec, pack("<I", 1024) * 1000 + NOISE[:100_000]) is None
        assert calls == [4096, 4096], "a length vector says nothing of the entries"
        assert compress(codec, NOISE[:2000] + TEXT * 50) is not None
        assert len(calls) == 4


@every_codec
def test_a_body_may_not_become_larger_than_allowed(codec: Codec) -> None:
    stored = compress(codec, TEXT)
    assert stored is not None
    assert decompress(codec, stored, len(TEXT)) == TEXT
    with pytest.raises(FrameError, match="at most"):
        decompress(codec, stored, len(TEXT) - 1)


@every_codec
def test_a_bomb_is_refused_before_it_is_unpacked(codec: Codec) -> None:
    """A gigabyte of zeros is a few KiB; what counts is what the caller allows."""
    zeros = compress(codec, bytes(LIMIT))
    assert zeros is not None
    assert len(zeros) < LIMIT // 100
    for claimed in (BODY_BYTES_MIN, 4096, LIMIT - 1, LIMIT + 1, 0xFFFF_FFFF, 0):
        with pytest.raises(FrameError):
            decompress(codec, pack("<I", claimed) + zeros[4:], LIMIT)


def test_a_zstd_frame_that_states_no_size_or_another_one_is_refused() -> None:
    zstandard = import_module("zstandard")
    silent = zstandard.ZstdCompressor(write_content_size=False).compress(TEXT)
    with pytest.raises(FrameError, match="states another size"):
        decompress(Codec.ZSTD, pack("<I", len(TEXT)) + silent, LIMIT)
    honest = zstandard.ZstdCompressor().compress(TEXT)
    assert decompress(Codec.ZSTD, pack("<I", len(TEXT)) + honest, LIMIT) == TEXT
    with pytest.raises(FrameError):
        decompress(Codec.ZSTD, pack("<I", len(TEXT)) + honest + b"\0", LIMIT)
    with pytest.raises(FrameError):
        decompress(Codec.ZSTD, pack("<I", len(TEXT)) + honest + honest, LIMIT)


@every_codec
def test_no_bytes_raise_anything_but_a_frame_error(codec: Codec) -> None:
    rng = random.Random(7)
    stored = compress(codec, TEXT)
    assert stored is not None
    refused = 0
    for _ in range(3000):
        mutant = bytearray(stored)
        for _ in range(rng.choice([1, 1, 2, 8])):
            mutant[rng.randrange(len(mutant))] = rng.randrange(256)
        if rng.random() < 0.3:
            del mutant[rng.randrange(len(mutant)) :]
        try:
            plain = decompress(codec, bytes(mutant), LIMIT)
        except FrameError:
            refused += 1
        else:
            assert len(plain) == int.from_bytes(mutant[:4], "little")
    assert refused > 1500


@every_codec
@pytest.mark.parametrize("body", [b"", b"\0", b"\0\0\0", pack("<I", 300)])
def test_a_body_that_is_cut_off_is_malformed(codec: Codec, body: bytes) -> None:
    with pytest.raises(FrameError):
        decompress(codec, body, LIMIT)


def test_a_codec_that_is_not_known_is_another_format() -> None:
    assert codec_of(2) is Codec.ZSTD
    for flags in (3, 15, 16, 0x8001):
        with pytest.raises(OtherFormatError, match="update raftdeck"):
            codec_of(flags)


@every_codec
def test_a_missing_package_is_told_with_the_extra_that_brings_it(
    codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = module._MAKERS[codec][0]
    module._functions.cache_clear()
    monkeypatch.setitem(sys.modules, package, None)
    try:
        with pytest.raises(MissingCodecError, match=r"raftdeck\[compression\]"):
            module.require(codec)
        with pytest.raises(MissingCodecError):
            decompress(codec, pack("<I", 300) + b"x", LIMIT)
        module.require(Codec.NONE)
    finally:
        module._functions.cache_clear()


def test_the_names_are_those_of_the_format() -> None:
    assert CODECS == {"none": Codec.NONE, "lz4": Codec.LZ4, "zstd": Codec.ZSTD}


@every_codec
@pytest.mark.parametrize("name", ["HDFS.log", "Zookeeper.log"])
def test_real_logs_shrink_to_less_than_a_third(codec: Codec, name: str) -> None:
    path = ROOT.parent / "shared" / "data" / "loghub" / name
    if not path.exists():
        path = ROOT.parents[1] / "shared" / "data" / "loghub" / name
    if not path.exists():
        pytest.skip("no ../shared/data/loghub beside this checkout")
    body = path.read_bytes()
    stored = compress(codec, body)
    assert stored is not None
    assert len(stored) < len(body) / 3
    assert decompress(codec, stored, len(body)) == body
