"""What a log should hold after a list of records, told without any code of `wal.replay`."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from wal import Log, Record, RecordHeader, Recovered, batch_record, hard_state_record
from wal.frame import Kind, release_record, truncate_record


@dataclass
class Group:
    hard: tuple[int, int, bytes] = (0, 0, b"")
    released: tuple[int, int] = (0, 0)
    batches: list[tuple[int, Record]] = field(default_factory=list)
    """(last index, record) of every batch."""

    @property
    def ends(self) -> list[int]:
        """Indexes at which the group may be cut or released: its start and its batch ends."""
        return [self.released[0], *(last for last, _ in self.batches)]


State = dict[int, tuple[tuple[int, int, bytes], tuple[int, int], list[bytes]]]


class Model:
    """All groups of a log."""

    def __init__(self) -> None:
        self.groups: dict[int, Group] = {}

    def copy(self) -> Model:
        other = Model()
        for number, group in self.groups.items():
            other.groups[number] = Group(group.hard, group.released, list(group.batches))
        return other

    def apply(self, record: Record) -> None:
        header = RecordHeader.unpack(record.header)
        group = self.groups.setdefault(header.group, Group())
        if header.kind is Kind.BATCH:
            group.batches.append((header.base_index + header.count - 1, record))
        elif header.kind is Kind.HARD_STATE:
            body = bytes(record.body)
            group.hard = (header.term, int.from_bytes(body[:8], "little"), body[8:])
        elif header.kind is Kind.TRUNCATE:
            group.batches = [each for each in group.batches if each[0] < header.base_index]
        else:
            assert header.kind is Kind.RELEASE
            if header.base_index > group.released[0]:
                group.batches = [each for each in group.batches if each[0] > header.base_index]
                group.released = (header.base_index, header.term)

    def state(self) -> State:
        """The state as a value; a group that nothing was said about is left out."""
        return {
            number: (group.hard, group.released, [record.header for _, record in group.batches])
            for number, group in sorted(self.groups.items())
            if group != Group()
        }


def state_of(log: Log, found: Recovered) -> State:
    """Translate what recovery found; every live batch is read back in full."""
    state: State = {}
    for number, group in sorted(found.groups.items()):
        hard = (group.term, group.vote, group.config)
        released = (group.released_index, group.released_term)
        headers = [log.read(number, ref).header for ref in group.batches]
        if (hard, released, headers) != ((0, 0, b""), (0, 0), []):
            state[number] = (hard, released, headers)
    return state


class Workload:
    """Draws appends that a correct node could make."""

    def __init__(self, rng: random.Random, groups: int) -> None:
        self._rng = rng
        self._groups = groups
        self._term = 1

    def append(self, submitted: Model) -> list[Record]:
        """Return records for one append and apply them to `submitted`."""
        records = []
        for _ in range(self._rng.choice([1, 1, 2, 5])):
            record = self._record(submitted)
            submitted.apply(record)
            records.append(record)
        return records

    def again(self, submitted: Model) -> list[Record]:
        """Return copies of some live batches of one group, in the order of their indexes."""
        numbers = [number for number, group in sorted(submitted.groups.items()) if group.batches]
        if not numbers:
            return []
        batches = submitted.groups[self._rng.choice(numbers)].batches
        first = self._rng.choice([0, 0, self._rng.randrange(len(batches))])
        count = self._rng.choice([1, 5, len(batches)])
        return [record for _, record in batches[first : first + count]]

    def _record(self, submitted: Model) -> Record:
        rng = self._rng
        number = rng.randrange(self._groups)
        group = submitted.groups.get(number, Group())
        ends = group.ends
        kind = rng.choices(["batch", "hard", "cut", "release", "jump"], [60, 12, 8, 18, 1])[0]
        if kind == "hard":
            self._term += rng.randint(0, 1)
            config = rng.randbytes(rng.choice([0, 0, 9]))
            return hard_state_record(number, self._term, rng.randrange(5), config)
        if kind == "cut" and len(ends) > 1:
            return truncate_record(number, rng.choice(ends) + 1)
        if kind == "release":
            return release_record(number, rng.choice(ends), self._term)
        if kind == "jump":
            return release_record(number, ends[-1] + rng.randint(0, 9), self._term)
        size = rng.choice([0, 1, 40, 700, 3000, 9000]) if rng.random() > 0.01 else 70_000
        entries = [rng.randbytes(size) for _ in range(rng.choice([1, 1, 3]))]
        return batch_record(number, self._term, ends[-1] + 1, entries)
