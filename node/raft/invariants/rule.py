"""What an invariant is: a name, a source, and the error that says that it does not hold."""

from __future__ import annotations

from dataclasses import dataclass

from node.raft.types import BatchMeta

__all__ = ["InvariantError", "Rule", "name_of"]


class InvariantError(AssertionError):
    """A property of the protocol does not hold: `name` is a key of `INVARIANTS`."""

    def __init__(self, rule: Rule, detail: str) -> None:
        """Say which property and what was seen."""
        self.name = rule.name
        self.detail = detail
        super().__init__(f"{rule.name}: {detail} ({rule.source})")


@dataclass(frozen=True, slots=True)
class Rule:
    """One property, and where it is stated."""

    name: str
    source: str

    def broken(self, detail: str) -> InvariantError:
        """Return the error that says what was seen."""
        return InvariantError(self, detail)


def name_of(batch: BatchMeta) -> str:
    """Return a batch as a person reads it."""
    return f"{batch.base_index}–{batch.last_index} of term {batch.term}"
