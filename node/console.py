"""A node's words to a person: lines on stderr, which is its log file (`nI/node.log`)."""

from __future__ import annotations

import contextlib
import os
import time

__all__ = ["say"]

_STDERR = 2


def say(text: str) -> None:
    """Write one line to stderr; where it cannot be written, a node must go on (or end) as it is.

    Not by `print`: what it could not write it would try again at exit, and change the exit code.
    """
    with contextlib.suppress(OSError):
        line = f"{time.strftime('%H:%M:%S')} {text}\n"
        os.write(_STDERR, line.encode(errors="backslashreplace"))
