"""A real node that acknowledges before it syncs: of every 50 syncs of its log, it makes one.

The first, so that a power cut leaves a log: one that is gone altogether is noticed by any start.
Under load a kill does not show it, because the kernel keeps what was written. A power cut does.
"""

import itertools
import sys
from unittest.mock import patch

from node.main import main
from wal import SegmentIO
from wal.operations import Operation, Sync

SYNC_EVERY = 50
original = SegmentIO.perform
syncs = itertools.count()


def perform(self: SegmentIO, operation: Operation) -> None:
    is_early = isinstance(operation, Sync) and operation.name.endswith(".wal")
    if not is_early or next(syncs) % SYNC_EVERY == 0:
        original(self, operation)


if __name__ == "__main__":
    with patch.object(SegmentIO, "perform", perform):
        sys.exit(main())
