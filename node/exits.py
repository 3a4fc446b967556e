"""How a node process ends: its exit codes (ARCHITECTURE §9) and the error that carries one."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["NodeExit", "StartError"]


class NodeExit(IntEnum):
    """Exit codes of `python -m node`; the numbers follow sysexits where one fits."""

    CLEAN = 0
    USAGE = 64
    CORRUPT_LOG = 65
    DATA_DIR_UNUSABLE = 73
    POISONED_LOG = 74
    IN_USE = 75
    OTHER_FORMAT = 76
    FOREIGN_IDENTITY = 78


class StartError(Exception):
    """A node cannot run here. The text says what, where and what to do; `exit_code` says which."""

    def __init__(self, exit_code: NodeExit, text: str) -> None:
        super().__init__(text)
        self.exit_code = exit_code
