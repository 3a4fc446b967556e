"""A log in power-loss mode, written until somebody kills the process.

    python -m tests.process.killed_log DIR POLICY [--unsynced]

Appends batches of one entry each behind what DIR holds, `IN_FLIGHT_MAX` at most at once, and prints
the index of each when it is acknowledged. Syncs take a little longer, so that a kill finds something
between a write and its sync.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import deque

from tests.wal.support import IDENTITY, SMALL, batch
from wal import AppendHandle, Log, OpenOptions, OsFilesystem
from wal.faultfs import FaultFilesystem
from wal.faults import Fault, FaultBoard
from wal.policy import policy_of_text
from wal.writeback import WriteBackFilesystem

IN_FLIGHT_MAX = 8
ENTRY_BYTES = 3_000


def main(directory: str, policy: str, *options: str) -> None:
    """Append for ever."""
    cache = WriteBackFilesystem(OsFilesystem())
    board = FaultBoard(time.monotonic_ns, lambda text: os.kill(os.getpid(), signal.SIGKILL))
    board.set(Fault("slow", 600_000, delay_ms=2))
    log, found = Log.open(
        FaultFilesystem(cache, board),
        directory,
        IDENTITY,
        OpenOptions(policy_of_text(policy, SMALL)),
    )
    if "--unsynced" in options:
        cache.flush = lambda inode: None  # type: ignore[method-assign]  # planted
    group = found.groups.get(0)
    index = group.last_index if group else 0
    waiting: deque[tuple[int, AppendHandle]] = deque()
    while True:
        index += 1
        waiting.append((index, log.append([batch(index, size=ENTRY_BYTES)])))
        if index % 25 == 0:
            log.release(0, index - 20, 1)
        while len(waiting) >= IN_FLIGHT_MAX:
            acknowledged, handle = waiting.popleft()
            handle.wait()
            print(acknowledged, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
