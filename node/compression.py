"""Compression of batches on one node: which codec its leaders use, and what it did.

The leader's batch builder compresses a body once; the stored bytes travel, lie in every log and in
memory (`wal.compression`). They become plain where they are checked (`codec.decode_batch`) and
where they are applied, for nothing in between looks into them.
"""

from __future__ import annotations

from collections.abc import Callable

from node.limits import BATCH_BODY_BYTES_MAX
from node.raft.types import Batch, Buffer
from wal.compression import Codec, codec_of, compress, decompress
from wal.frame import flags_of

__all__ = ["BatchCompression"]


class BatchCompression:
    """What the groups of one node share: a codec, and counters. Main thread.

    `now_ns` is the node's clock; in the simulator compression takes no time.
    """

    __slots__ = (
        "batches",
        "bytes_in",
        "bytes_out",
        "codec",
        "compress_ns",
        "decompress_ns",
        "now_ns",
        "skipped",
    )

    def __init__(self, codec: Codec, now_ns: Callable[[], int]) -> None:
        """Compress with `codec`; whatever it is, batches of any codec are read."""
        self.codec = codec
        self.now_ns = now_ns
        self.batches = 0
        """Batches that were compressed, and no others in `bytes_in` and `bytes_out`."""
        self.skipped = 0
        """Batches that would not have shrunk enough."""
        self.bytes_in = 0
        self.bytes_out = 0
        self.compress_ns = 0
        """Time spent on trying, in vain included."""
        self.decompress_ns = 0
        """Time spent where batches are applied."""

    def shrink(self, body: Buffer) -> tuple[int, Buffer]:
        """Return the flags and the stored body of a new batch; of a large one if it pays."""
        if self.codec is Codec.NONE:
            return 0, body
        began = self.now_ns()
        stored = compress(self.codec, body) if len(body) <= BATCH_BODY_BYTES_MAX else None
        self.compress_ns += self.now_ns() - began
        if stored is None:
            self.skipped += 1
            return 0, body
        self.batches += 1
        self.bytes_in += len(body)
        self.bytes_out += len(stored)
        return int(self.codec), stored

    def plain(self, batch: Batch) -> Buffer:
        """Return the plain body of a batch of ours: built here, or checked when it came.

        Raises MissingCodecError for one that an earlier installation wrote, FrameError never but
        for a bug: what is stored was decompressed once before it was stored.
        """
        flags = flags_of(batch.header)
        if not flags:
            return batch.body
        began = self.now_ns()
        body = decompress(codec_of(flags), batch.body, BATCH_BODY_BYTES_MAX)
        self.decompress_ns += self.now_ns() - began
        return body
