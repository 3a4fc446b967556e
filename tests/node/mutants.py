"""Frames that no honest program sends: seeded mutations of honest ones, and plain noise."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator, Sequence

import msgpack

from node.codec import seal
from node.raft.types import NodeId

Frame = list[bytes]
SEAL_BYTES = 16
"""What stands before the envelope of a peer frame."""

NASTY: tuple[object, ...] = (
    0, 1, -1, 127, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, -(1 << 63),
    True, False, None, 0.0, 1.0, float("nan"), "", "x", "x" * 70, b"", b"x" * 16, b"x" * 17,
    [], [[]], [1], {}, {1: 1}, {b"": []}, msgpack.ExtType(5, b""), msgpack.ExtType(5, b"xy"),
    msgpack.Timestamp(1, 1),
)  # fmt: skip
"""What a field may be replaced by."""

DEEP = (b"\x91" * 2_000, b"\xdc\x40\x00" * 1_024, b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff")
"""Headers that promise more than follows."""


def mutants(seed: int, honest: Sequence[Frame], count: int) -> Iterator[Frame]:
    """Yield `count` frames, each an honest one after one to three mutations, or noise."""
    rng = random.Random(seed)
    for _ in range(count):
        if rng.random() < 0.1:
            yield [rng.randbytes(rng.randrange(80)) for _ in range(rng.randrange(1, 5))]
            continue
        frame = list(rng.choice(honest))
        for _ in range(rng.choice((1, 1, 2, 3))):
            rng.choice(MUTATIONS)(rng, frame)
        yield frame


def document_of(part: bytes) -> list:
    """The envelope of a peer frame's first part, as a document."""
    document: list = msgpack.unpackb(part[SEAL_BYTES:])
    return document


def sealed(document: object, to: int, headers: Sequence[bytes] = ()) -> bytes:
    """A peer frame's first part around any document, with a seal that holds."""
    return seal(msgpack.packb(document), NodeId(to), 0, headers)


def peer_mutants(
    seed: int, honest: Sequence[Frame], count: int, to: int, sealed_share: float = 0.5
) -> Iterator[Frame]:
    """Mutants of peer frames; a share of them sealed again, to reach what the seal protects."""
    rng = random.Random(seed)
    broken = mutants(seed, honest, count)
    opened = mutants(seed + 1, [[frame[0][SEAL_BYTES:], *frame[1:]] for frame in honest], count)
    for _ in range(count):
        if rng.random() >= sealed_share:
            yield next(broken)
        elif frame := next(opened):
            yield [seal(frame[0], NodeId(to), 0, frame[1::2]), *frame[1:]]


def flip(rng: random.Random, frame: Frame) -> None:
    """Change one byte."""
    place = rng.randrange(len(frame))
    if part := bytearray(frame[place]):
        part[rng.randrange(len(part))] = rng.randrange(256)
        frame[place] = bytes(part)


def cut(rng: random.Random, frame: Frame) -> None:
    """Cut one part short."""
    place = rng.randrange(len(frame))
    frame[place] = frame[place][: rng.randrange(len(frame[place]) + 1)]


def grow(rng: random.Random, frame: Frame) -> None:
    """Add bytes behind or before one part."""
    place = rng.randrange(len(frame))
    more = rng.choice((b"\x00", b"\xc0", b"\x01", rng.randbytes(rng.randrange(1, 70))))
    frame[place] = rng.choice((frame[place] + more, more + frame[place]))


def reshape(rng: random.Random, frame: Frame) -> None:
    """Drop, repeat, swap, empty or insert a part."""
    place = rng.randrange(len(frame))
    what = rng.randrange(5)
    if what == 0 and len(frame) > 1:
        del frame[place]
    elif what == 1:
        frame.insert(place, frame[place])
    elif what == 2:
        other = rng.randrange(len(frame))
        frame[place], frame[other] = frame[other], frame[place]
    elif what == 3:
        frame[place] = b""
    else:
        frame.insert(place, rng.randbytes(rng.randrange(70)))


def deepen(rng: random.Random, frame: Frame) -> None:
    """Put a header that promises too much somewhere into one part."""
    place = rng.randrange(len(frame))
    at = rng.randrange(len(frame[place]) + 1)
    frame[place] = frame[place][:at] + rng.choice(DEEP)


def replace_field(rng: random.Random, frame: Frame) -> None:
    """Replace one value of the first part's document by something nasty, or drop or repeat it."""
    try:
        document = msgpack.unpackb(frame[0], strict_map_key=False)
        if not isinstance(document, list) or not document:
            return
        owner, place = document, rng.randrange(len(document))
        while isinstance(owner[place], list) and owner[place] and rng.random() < 0.8:
            owner = owner[place]
            place = rng.randrange(len(owner))
        what = rng.randrange(4)
        if what == 0:
            del owner[place]
        elif what == 1:
            owner.insert(place, owner[place])
        else:
            owner[place] = rng.choice(NASTY)
        frame[0] = msgpack.packb(document)
    except (ValueError, TypeError, OverflowError):
        return  # an earlier mutation left no document


def poke_word(rng: random.Random, frame: Frame) -> None:
    """Overwrite a u32 of one part: a length, a count, a CRC."""
    place = rng.randrange(len(frame))
    if len(frame[place]) >= 4:
        part = bytearray(frame[place])
        word = rng.choice((0, 1, 2, 0xFFFF, 0x7FFF_FFFF, 0xFFFF_FFFF, rng.getrandbits(32)))
        struct.pack_into("<I", part, rng.randrange(0, len(part) - 3), word)
        frame[place] = bytes(part)


MUTATIONS: tuple[Callable[[random.Random, Frame], None], ...] = (
    flip, cut, grow, reshape, deepen, replace_field, replace_field, poke_word,
)  # fmt: skip
