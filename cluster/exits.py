"""How `raftdeck` ends: its exit codes (DESIGN §8) and the error that carries one to a person."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any, Final

from node.exits import NodeExit

__all__ = ["CommandError", "Exit", "exit_of_node"]


class Exit(IntEnum):
    """Exit codes of every verb."""

    HELD = 0
    FAILED = 1
    USAGE = 2
    UNKNOWN = 3
    UNFIT = 4
    NO_CLUSTER = 5
    NO_QUORUM = 6
    INTERRUPTED = 130


class CommandError(Exception):
    """An operation that did not happen. The text says what, where and what to do next."""

    def __init__(self, exit_code: Exit, text: str) -> None:
        super().__init__(text)
        self.exit_code = exit_code

    def encode(self) -> dict[str, Any]:
        """Return the error as the payload of a refused control request."""
        return {"exit": int(self.exit_code), "text": str(self)}

    @classmethod
    def decode(cls, payload: object) -> CommandError:
        """Rebuild an error that a supervisor sent; never raises."""
        if not isinstance(payload, Mapping):
            return cls(Exit.FAILED, str(payload))
        code = payload.get("exit")
        members = {int(member): member for member in Exit}
        known = members.get(code, Exit.FAILED) if type(code) is int else Exit.FAILED
        return cls(known, str(payload.get("text")))


_OF_NODE: Final[Mapping[int, Exit]] = {
    NodeExit.CLEAN: Exit.HELD,
    NodeExit.USAGE: Exit.USAGE,
    NodeExit.CORRUPT_LOG: Exit.FAILED,
    NodeExit.DATA_DIR_UNUSABLE: Exit.UNFIT,
    NodeExit.POISONED_LOG: Exit.FAILED,
    NodeExit.IN_USE: Exit.UNFIT,
    NodeExit.OTHER_FORMAT: Exit.UNFIT,
    NodeExit.FOREIGN_IDENTITY: Exit.USAGE,
}


def exit_of_node(code: int | None) -> Exit:
    """Map a node's exit code to a verb's; a signal (None) or an unknown code is `UNFIT`."""
    return Exit.UNFIT if code is None else _OF_NODE.get(code, Exit.UNFIT)
