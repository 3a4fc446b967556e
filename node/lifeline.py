"""A node never outlives its supervisor: parent-death signal, parent check, lifeline pipe.

PR_SET_PDEATHSIG asks the kernel for SIGKILL when the parent dies; it also reaches a stopped
(frozen) process. A parent that died before the call is found by comparing the pid. The pipe is
the portable second line: its end of file means that the parent is gone.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

__all__ = ["die_with_parent", "parent_is_alive"]

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent_pid: int) -> bool:
    """Ask to be killed when the parent dies; return False if it is dead already.

    On platforms without prctl only the lifeline pipe protects (`raftdeck doctor` says so).
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"prctl(PR_SET_PDEATHSIG): {os.strerror(number)}")
    return parent_is_alive(parent_pid)


def parent_is_alive(parent_pid: int) -> bool:
    """Tell whether `parent_pid` is still our parent."""
    return os.getppid() == parent_pid
