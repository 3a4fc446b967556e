"""Compressed bodies of batches: which codec, how it is told, and how far one is trusted.

A record whose header names a codec (the low four bits of its flags) has the body

    0  4  plain_len   u32, bytes of the body as it was
    4  …  block       lz4: one raw block · zstd: one frame that states its content size

and counts, length vector and entries are those of the plain body. Both CRCs of a frame are over
what is stored: the bytes on the wire, in every log and in memory stay the same ones.

Compression is optional twice. A body that would not shrink by an eighth is stored as it is: samples
of a long body tell that for a twentieth of the work. And the packages are an extra of this
distribution: without them, what is compressed is refused by name, never guessed.

Nothing here trusts `plain_len`: it is held to the caller's bound before a byte is allocated, and to
what the block then yields.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from functools import cache
from importlib import import_module
from struct import Struct
from typing import Any, Final, NamedTuple

from wal.errors import FrameError, OtherFormatError
from wal.frame import Buffer

__all__ = [
    "CODECS",
    "CODEC_MASK",
    "Codec",
    "MissingCodecError",
    "codec_of",
    "compress",
    "decompress",
    "require",
]

CODEC_MASK: Final = 0x0F
"""The bits of a header's flags that name the codec; the others are 0."""

BODY_BYTES_MIN: Final = 256
"""A shorter body is stored as it is: what could be saved is less than a frame's own head."""
SAVED_SHARE_MIN: Final = 8
"""A body is stored compressed if that saves at least one part in eight: below it, every reader would
pay for decompression and the disk would hardly notice."""
SAMPLED_FROM: Final = 64 << 10
"""From this size on, samples are compressed first."""
SAMPLES: Final = 4
SAMPLE_BYTES: Final = 1 << 10
"""Four samples of 1 KiB of the smallest sampled body: a sixteenth of the work."""
SAMPLE_SHARE_MIN: Final = 16
"""Samples must save one part in sixteen: half of what is asked of the whole, since short pieces
compress worse."""

_LENGTH: Final = Struct("<I")


class Codec(IntEnum):
    """The codecs; the numbers are the format's."""

    NONE = 0
    LZ4 = 1
    ZSTD = 2


CODECS: Final = {codec.name.lower(): codec for codec in Codec}
"""Codec by the name that people write."""


class MissingCodecError(OtherFormatError):
    """The package that a codec needs is not installed."""


class _Functions(NamedTuple):
    compress: Callable[[Buffer], bytes]
    decompress: Callable[[Buffer, int], bytes]
    """Of a block, into exactly so many bytes; raises FrameError."""


def codec_of(flags: int) -> Codec:
    """Return the codec that a header's flags name; OtherFormatError for one that is not known."""
    try:
        return Codec(flags)
    except ValueError:
        raise OtherFormatError(
            f"flags {flags:04x}: a codec that this version does not know; update raftdeck"
        ) from None


def require(codec: Codec) -> None:
    """Raise MissingCodecError unless the codec can be used here."""
    if codec is not Codec.NONE:
        _functions(codec)


def compress(codec: Codec, body: Buffer) -> bytes | None:
    """Return the stored body of `body`, or None if it is better stored as it is.

    Raises MissingCodecError. Cost per MiB of log lines: 1 to 3 ms; of noise: 0.02 ms.
    """
    if codec is Codec.NONE or len(body) < BODY_BYTES_MIN:
        return None
    run = _functions(codec).compress
    if len(body) >= SAMPLED_FROM:
        sample = _sample(body)
        if len(run(sample)) > len(sample) - len(sample) // SAMPLE_SHARE_MIN:
            return None
    block = run(body)
    if _LENGTH.size + len(block) > len(body) - len(body) // SAVED_SHARE_MIN:
        return None
    return _LENGTH.pack(len(body)) + block


def decompress(codec: Codec, body: Buffer, plain_bytes_max: int) -> Buffer:
    """Return the plain body of a stored one, of at most `plain_bytes_max` bytes.

    Raises FrameError if it is malformed or larger, MissingCodecError.
    """
    if codec is Codec.NONE:
        return body
    if len(body) < _LENGTH.size:
        raise FrameError("compressed body: cut off")
    (plain_len,) = _LENGTH.unpack_from(body)
    if not BODY_BYTES_MIN <= plain_len <= plain_bytes_max:
        raise FrameError(
            f"compressed body: {plain_len} bytes, and at most {plain_bytes_max} may be"
        )
    return _functions(codec).decompress(memoryview(body)[_LENGTH.size :], plain_len)


def _sample(body: Buffer) -> bytes:
    """Return pieces from all over a body, but not its start: a length vector always shrinks."""
    view = memoryview(body)
    starts = [(2 * at + 1) * len(view) // (2 * SAMPLES) for at in range(SAMPLES)]
    return b"".join(view[start : start + SAMPLE_BYTES] for start in starts)


# ---- the packages ----------------------------------------------------------------------------


@cache
def _functions(codec: Codec) -> _Functions:
    name, make = _MAKERS[codec]
    try:
        return make(import_module(name))
    except ImportError:
        raise MissingCodecError(
            f"compression with {codec.name.lower()} needs the package"
            f" {name.partition('.')[0]!r}, which is not installed here;"
            ' install the extra: pip install "raftdeck[compression]"'
        ) from None


def _lz4(module: Any) -> _Functions:
    failure = module.LZ4BlockError

    def shrink(body: Buffer) -> bytes:
        block: bytes = module.compress(body, store_size=False)
        return block

    def restore(block: Buffer, plain_len: int) -> bytes:
        try:
            plain: bytes = module.decompress(block, uncompressed_size=plain_len)
        except failure as error:
            raise FrameError(f"compressed body: {error}") from None
        return _of_length(plain, plain_len)

    return _Functions(shrink, restore)


def _zstd(module: Any) -> _Functions:
    compressor = module.ZstdCompressor(level=1, write_content_size=True, write_checksum=False)
    decompressor = module.ZstdDecompressor()
    failure = module.ZstdError

    def shrink(body: Buffer) -> bytes:
        block: bytes = compressor.compress(body)
        return block

    def restore(block: Buffer, plain_len: int) -> bytes:
        try:
            # The frame's own statement decides what is allocated: it must be the checked one.
            if module.frame_content_size(bytes(block[:_ZSTD_HEAD_BYTES])) != plain_len:
                raise FrameError("compressed body: the frame states another size")
            plain: bytes = decompressor.decompress(
                block, max_output_size=plain_len, allow_extra_data=False
            )
        except failure as error:
            raise FrameError(f"compressed body: {error}") from None
        return _of_length(plain, plain_len)

    return _Functions(shrink, restore)


_ZSTD_HEAD_BYTES: Final = 18
"""The longest header of a zstd frame (RFC 8878, 3.1.1)."""


def _of_length(plain: bytes, plain_len: int) -> bytes:
    if len(plain) != plain_len:
        raise FrameError(f"compressed body: {len(plain)} bytes, not {plain_len}")
    return plain


_MAKERS: Final[dict[Codec, tuple[str, Callable[[Any], _Functions]]]] = {
    Codec.LZ4: ("lz4.block", _lz4),
    Codec.ZSTD: ("zstandard", _zstd),
}
