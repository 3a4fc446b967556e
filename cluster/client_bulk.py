"""Many writes under one handle: what is submitted together, its parts on their way, its result.

Theory of operation. A `Bulk` costs its client next to nothing per operation: one call, one
completion, one callback; its entries are packed in one go, and the answer to a request of puts is
one run (`node.outcomes`). Nothing else is different: every operation has its own sequence number
and its own outcome, so each is applied at most once, and each may fail alone. Operations of a bulk
are concurrent like any others; a bulk is not atomic (`node.commands.batch` is).

A `BulkPart` is what of a bulk travels together: it waits in a lane's queue like a `Pending`, is cut
where a request is full, and comes back in pieces if only some of its entries have to be sent anew.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, chain, count
from operator import itemgetter
from typing import Final, Self, TypeVar, overload

from cluster.client_types import ClientError, Completion, Ticket
from node.commands import (
    EncodeError,
    Opcode,
    Operation,
    entry_header,
    pack_header,
    put_sizes,
)
from node.outcomes import Outcome, Outcomes

__all__ = ["Bulk", "BulkPart", "BulkResult", "OperationList", "PutList", "Writes"]

T = TypeVar("T")

BULK_OPERATIONS_MAX: Final = 1 << 16
"""Operations of one bulk: what a client holds (`ClientConfig.pending_operations_max`)."""
_PUT: Final = int(Opcode.PUT)


def _pick(items: Sequence[T], places: Sequence[int]) -> Sequence[T]:
    if isinstance(places, range):
        return items[places.start : places.stop]
    return [items[place] for place in places]


class Writes(ABC):
    """Operations that are submitted together; `sizes` are the bytes of their entries."""

    __slots__ = ("sizes",)

    def __init__(self, sizes: Sequence[int]) -> None:
        if not 0 < len(sizes) <= BULK_OPERATIONS_MAX:
            raise EncodeError(
                f"a bulk of {len(sizes)} operations; it holds 1 to {BULK_OPERATIONS_MAX}"
            )
        self.sizes = sizes

    def __len__(self) -> int:
        return len(self.sizes)

    @abstractmethod
    def keys(self, place: int) -> Sequence[bytes]:
        """Return the keys that one operation touches."""

    @abstractmethod
    def entries(self, places: Sequence[int], stamp: tuple[int, int, int]) -> Iterator[bytes]:
        """Yield the pieces of the entries at `places`; `stamp`: session, first seq, acked_below."""


class PutList(Writes):
    """Puts, as pairs of key and value. EncodeError if one is out of bounds."""

    __slots__ = ("_keys", "_values")

    def __init__(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        pairs = list(pairs)
        self._keys = list(map(itemgetter(0), pairs))
        self._values = list(map(itemgetter(1), pairs))
        super().__init__(put_sizes(self._keys, self._values))

    def keys(self, place: int) -> Sequence[bytes]:
        """See `Writes`."""
        return (self._keys[place],)

    def entries(self, places: Sequence[int], stamp: tuple[int, int, int]) -> Iterator[bytes]:
        """See `Writes`."""
        session, first_seq, acked_below = stamp
        keys, values = _pick(self._keys, places), _pick(self._values, places)
        heads = [
            pack_header(_PUT, 0, key_len, 0, session, seq, acked_below)
            for key_len, seq in zip(map(len, keys), count(first_seq), strict=False)
        ]
        return chain.from_iterable(zip(heads, keys, values, strict=True))


class OperationList(Writes):
    """Operations of any kind."""

    __slots__ = ("_operations",)

    def __init__(self, operations: Iterable[Operation]) -> None:
        self._operations = tuple(operations)
        super().__init__([operation.size for operation in self._operations])

    def keys(self, place: int) -> Sequence[bytes]:
        """See `Writes`."""
        return self._operations[place].keys

    def entries(self, places: Sequence[int], stamp: tuple[int, int, int]) -> Iterator[bytes]:
        """See `Writes`."""
        session, first_seq, acked_below = stamp
        for seq, operation in enumerate(_pick(self._operations, places), first_seq):
            yield entry_header(operation, session, seq, acked_below)
            yield from operation.body


class BulkResult(Sequence[Outcome]):
    """One outcome per operation, in the order of submission.

    To look at an operation that failed raises its error; `errors` has all of them by position.
    """

    __slots__ = ("_chunks", "_found", "_length", "errors")

    def __init__(
        self,
        length: int,
        chunks: Sequence[tuple[Sequence[int], Outcomes]],
        errors: Mapping[int, ClientError],
    ) -> None:
        self._length = length
        self._chunks = chunks
        self._found: dict[int, Outcome] | None = None
        self.errors = errors

    def check(self) -> Self:
        """Raise the error of the first operation that failed; return the result if none did."""
        if self.errors:
            raise self.errors[min(self.errors)]
        return self

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, place: int) -> Outcome: ...

    @overload
    def __getitem__(self, place: slice) -> list[Outcome]: ...

    def __getitem__(self, place: int | slice) -> Outcome | list[Outcome]:
        if isinstance(place, slice):
            return [self[position] for position in range(*place.indices(self._length))]
        position = place + self._length if place < 0 else place
        if not 0 <= position < self._length:
            raise IndexError(f"no operation {place} of {self._length}")
        error = self.errors.get(position)
        if error is not None:
            raise error
        if self._found is None:  # most callers only want to know that all is well
            self._found = {
                position: outcome
                for positions, outcomes in self._chunks
                for position, outcome in zip(positions, outcomes, strict=True)
            }
        return self._found[position]


class Bulk:
    """The state of one bulk until all of it has ended."""

    __slots__ = ("_chunks", "_errors", "_left", "deadline", "submitted", "ticket", "writes")

    def __init__(self, ticket: Ticket, writes: Writes, submitted: int, deadline: int) -> None:
        self.ticket = ticket
        self.writes = writes
        self.submitted = submitted
        self.deadline = deadline
        self._left = len(writes)
        self._chunks: list[tuple[Sequence[int], Outcomes]] = []
        self._errors: dict[int, ClientError] = {}

    def succeeded(self, places: Sequence[int], outcomes: Outcomes) -> Completion | None:
        """Take outcomes; return the completion if they were the last."""
        self._chunks.append((places, outcomes))
        return self._ended(len(places))

    def failed(self, places: Sequence[int], error: ClientError) -> Completion | None:
        """Take the end of operations that came to nothing known."""
        self._errors.update(dict.fromkeys(places, error))
        return self._ended(len(places))

    def _ended(self, count: int) -> Completion | None:
        self._left -= count
        assert self._left >= 0, "an operation ends once"
        if self._left:
            return None
        return Completion(self.ticket, BulkResult(len(self.writes), self._chunks, self._errors))


class BulkPart:
    """Operations of one bulk and one group that wait, or travel, together."""

    __slots__ = ("bulk", "count", "deadline", "places", "size", "submitted")

    def __init__(self, bulk: Bulk, places: Sequence[int]) -> None:
        self.bulk = bulk
        self.places = places
        self.count = len(places)
        self.size = sum(_pick(bulk.writes.sizes, places))
        self.submitted = bulk.submitted
        self.deadline = bulk.deadline

    @property
    def sizes(self) -> Sequence[int]:
        """Bytes of each entry."""
        return _pick(self.bulk.writes.sizes, self.places)

    def entries(self, stamp: tuple[int, int, int]) -> Iterator[bytes]:
        """Yield the pieces of the entries, stamped."""
        return self.bulk.writes.entries(self.places, stamp)

    def fitting(self, operations: int, room: int) -> int:
        """Return how many of its operations, from the first on, fit both bounds."""
        if self.count <= operations and self.size <= room:
            return self.count
        sums = accumulate(self.sizes[:operations])
        return sum(1 for total in sums if total <= room)

    def cut(self, count: int) -> tuple[BulkPart, BulkPart]:
        """Return the first `count` operations, and the rest."""
        return BulkPart(self.bulk, self.places[:count]), BulkPart(self.bulk, self.places[count:])
