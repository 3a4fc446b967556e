"""What can go wrong with a log. Every text says what, where and what to do next."""

from __future__ import annotations

import errno
from typing import Final

__all__ = [
    "ClosedLogError",
    "CorruptLogError",
    "DiskFullError",
    "FrameError",
    "IdentityMismatchError",
    "LockedError",
    "LostLogError",
    "OtherFormatError",
    "PoisonedLogError",
    "RecordTooLargeError",
    "ReleasedError",
    "TornTailError",
    "WalError",
    "is_no_space",
    "position_text",
]

_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def position_text(position: int) -> str:
    """Write a position (`segment << 32 | offset`) as a person reads it."""
    return f"segment {position >> 32:08d}.wal, byte {position & 0xFFFF_FFFF}"


def is_no_space(error: OSError) -> bool:
    """Tell whether an operation failed for want of space, which may return."""
    return error.errno in _NO_SPACE


class WalError(Exception):
    """Base of everything this package raises on purpose."""


class FrameError(WalError):
    """Bytes that are not a valid frame or record header; recovery decides what that means.

    `stored` and `computed` are the two CRCs if they differ, else None.
    """

    def __init__(self, reason: str, stored: int | None = None, computed: int | None = None):
        """Say what is wrong; two CRCs are added to the text."""
        self.stored = stored
        self.computed = computed
        if stored is not None and computed is not None:
            reason = f"{reason} (stored {stored:08x}, computed {computed:08x})"
        super().__init__(reason)


class LockedError(WalError):
    """Another process has the directory open."""


class CorruptLogError(WalError):
    """Durable bytes are damaged or missing; nothing was changed.

    `position` is where the first invalid frame lies (0: not in a segment), `evidence` the position
    of the frame or segment that proves that something durable stood there. `cause` is the frame's
    own error, if there was a frame.
    """

    def __init__(
        self,
        directory: str,
        position: int,
        reason: str,
        *,
        evidence: int | None = None,
        cause: FrameError | None = None,
    ):
        """Describe the damage at `position` in `directory`."""
        self.directory = directory
        self.position = position
        self.reason = reason
        self.evidence = evidence
        self.cause = cause
        place = f"{position_text(position)}: " if position else ""
        proof = "" if evidence is None else f"; proved durable by {position_text(evidence)}"
        super().__init__(
            f"{directory}: {place}{reason}{proof};"
            f' the log is left as it is; run "raftdeck wal verify {directory}"'
        )


class LostLogError(CorruptLogError):
    """Nothing is left of a log that was begun in this directory; nothing was changed."""

    def __init__(self, directory: str):
        """Say where it was."""
        super().__init__(directory, 0, "the log is gone")
        text = (
            f"{directory}: the log is gone: it was begun here, and no segment of it is left; restore"
            " the directory. Whoever owns it must not begin anew under the same name"
        )
        self.args = (text,)


class TornTailError(WalError):
    """A strict recovery met a torn tail; nothing was changed. `position` is where the log ends."""

    def __init__(self, directory: str, position: int, size: int, reason: str):
        """Describe a tail of `size` bytes behind `position`."""
        self.directory = directory
        self.position = position
        super().__init__(
            f"{directory}: {position_text(position)}: torn tail of {size} bytes ({reason}); strict"
            " recovery refuses it and the log is left as it is. Nothing proves that it was"
            ' acknowledged: look with "raftdeck wal verify", then start with --recovery default,'
            " which cuts it"
        )


class OtherFormatError(WalError):
    """Written in a format that this version does not read: by a newer one, or by an older."""


class IdentityMismatchError(WalError):
    """The log belongs to another cluster or node."""


class PoisonedLogError(WalError):
    """A write or sync failed, and nothing that was in flight is acknowledged.

    Nothing is retried: after a failed fsync the kernel may have dropped the pages and call them
    clean (fsyncgate).
    """


class ClosedLogError(WalError):
    """The log was closed; what waited may or may not be found when it is opened again."""


class ReleasedError(WalError):
    """A batch that was released; its segment is gone or used again."""


class DiskFullError(WalError):
    """No space for the log; refused before anything was written."""


class RecordTooLargeError(WalError):
    """A record that no segment can hold."""
