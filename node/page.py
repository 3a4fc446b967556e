"""A page of memory that a node and its supervisor share: the node's status, without a message.

Asking a node ten times a second costs it a request, a reply and a wake-up each time: with eleven
nodes a tenth of all their frames at a light load. Through a page it costs what making the status
costs, and nothing while nobody looks.

    u64 × 8   magic · interval_ns · since · sequence · at_ns · length · crc · unused
    then      the payload: an answer of the admin lane (`node.admin.encode_reply`)

The supervisor writes how often it wants a status (0: not at all) and `since`, the token of the
answer that it has (`node.status_wire`); the node writes the rest, at the end of a turn. `sequence`
is odd while it writes. A reader believes a payload whose sequence was even and the same before and
after, and whose CRC-32C holds: what is torn is read again later. The page is anonymous memory
(memfd), passed to the child as a descriptor, and made anew for every life.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Callable
from typing import Final, NamedTuple

from node.raft.state import FOREVER
from wal.checksum import crc32c

__all__ = ["PAGE_BYTES", "PageError", "PageReader", "PageWriter", "Written"]

PAGE_BYTES: Final = 1 << 20
"""A status of 1,024 groups that all changed takes about 250 KB; what is never touched, no memory."""
_MAGIC: Final = 0x7264_5041_4745_0001
_HEAD_BYTES: Final = 64
_MAGIC_AT, _INTERVAL, _SINCE, _SEQUENCE, _AT, _LENGTH, _CRC = range(7)


class PageError(Exception):
    """The descriptor is no page of ours."""


class Written(NamedTuple):
    """A payload, and when the node finished it (ns, the machine's monotonic clock)."""

    at_ns: int
    payload: bytes


class _Page:
    """The mapping. A word is stored at once; the CRC finds what another order of stores would do."""

    def __init__(self, descriptor: int) -> None:
        self._map = mmap.mmap(descriptor, PAGE_BYTES)
        self._words = memoryview(self._map).cast("Q")[: _HEAD_BYTES // 8]

    def close(self) -> None:
        """Unmap; a second time is no error."""
        self._words.release()
        with contextlib.suppress(BufferError):
            self._map.close()


class PageReader(_Page):
    """The supervisor's side: makes the page. One thread."""

    def __init__(self) -> None:
        """Make a page. OSError or AttributeError where the system has no memfd."""
        self.descriptor = os.memfd_create("raftdeck-status")
        try:
            os.ftruncate(self.descriptor, PAGE_BYTES)
            super().__init__(self.descriptor)
        except OSError:
            os.close(self.descriptor)
            raise
        self._words[_MAGIC_AT] = _MAGIC
        self._taken = 0

    def want(self, interval_ns: int, since: int) -> None:
        """Say how often a status is wanted (0: no more), and what is known already."""
        self._words[_SINCE] = since
        self._words[_INTERVAL] = interval_ns

    @property
    def at_ns(self) -> int:
        """When the newest payload was finished; 0 before the first."""
        return self._words[_AT]

    def read(self) -> Written | None:
        """Return what was written since the last call; None if nothing was, or it is half done."""
        words = self._words
        sequence, at_ns, length, crc = words[_SEQUENCE : _CRC + 1]
        if sequence % 2 or sequence == self._taken or length > PAGE_BYTES - _HEAD_BYTES:
            return None
        payload = self._map[_HEAD_BYTES : _HEAD_BYTES + length]
        if words[_SEQUENCE] != sequence or crc32c(payload) != crc:
            return None
        self._taken = sequence
        return Written(at_ns, payload)

    def close(self) -> None:
        """Close the descriptor and unmap."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
            super().close()


class PageWriter(_Page):
    """The node's side. Main thread."""

    def __init__(self, descriptor: int) -> None:
        """Map the page behind a descriptor that was inherited. `PageError` if it is none."""
        try:
            super().__init__(descriptor)
        except (OSError, ValueError) as error:
            raise PageError(f"descriptor {descriptor}: no status page ({error})") from None
        if self._words[_MAGIC_AT] != _MAGIC:
            raise PageError(f"descriptor {descriptor}: no status page of this version")
        self._tried_ns = 0

    @property
    def next_ns(self) -> int:
        """When the next payload is due."""
        interval = self._words[_INTERVAL]
        return self._tried_ns + interval if interval else FOREVER

    def write(self, make: Callable[[int], bytes], now: int) -> None:
        """Write what `make` says, given the token of the answer that is known already.

        A payload that does not fit leaves the page as it was: it ages, and the node is asked.
        """
        words = self._words
        self._tried_ns = now
        payload = make(words[_SINCE])
        if len(payload) > PAGE_BYTES - _HEAD_BYTES:
            return
        sequence = words[_SEQUENCE]
        words[_SEQUENCE] = sequence + 1
        self._map[_HEAD_BYTES : _HEAD_BYTES + len(payload)] = payload
        words[_LENGTH], words[_CRC] = len(payload), crc32c(payload)
        words[_AT] = now
        words[_SEQUENCE] = sequence + 2
