"""DurableKV: the store of seed 3's workshop, on the public interface of `wal`.

A dictionary in memory, and a log that says how it came to be. A write is logged, made durable, and
only then seen and acknowledged: the write-ahead rule. Opening the store replays the log. When the log
holds much more than the dictionary, the dictionary is logged once more and what lies before is
released: replaying gives the same store at any moment of that.

    from wal import OsFilesystem
    with DurableKV(OsFilesystem(), "./store") as store:
        store.put(b"greeting", b"hello")        # durable when it returns
        store.put_many({b"a": b"1", b"b": b"2"})  # all or none, one sync

From the command line:

    python -m scripts.durable_kv put ./store greeting hello
    python -m scripts.durable_kv get ./store greeting
    python -m scripts.durable_kv write ./store        # until it is killed; prints what is durable
    python -m scripts.durable_kv check ./store 1234   # was everything up to 1234 found?

Entry: u8 operation (1 put, 2 delete) · u32 key length · key · value. One batch is one operation of the
caller, so that a crash keeps all of it or nothing.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from struct import Struct
from typing import Final

import click

from wal import (
    AppendHandle,
    Filesystem,
    Log,
    LogIdentity,
    OpenOptions,
    OsFilesystem,
    Record,
    RecordHeader,
    Recovered,
    SyncPolicy,
    WalError,
    batch_record,
)
from wal.frame import split_batch_body

__all__ = ["DurableKV"]

GROUP: Final = 0
TERM: Final = 1
OWNER: Final = LogIdentity(b"durable-kv-store", 1)
PUT: Final = 1
DELETE: Final = 2
SLACK: Final = 4
"""The log is written anew when it holds this many times the bytes of the dictionary."""
LOG_BYTES_MIN: Final = 8 << 20
BATCH_ENTRIES_MAX: Final = 1_000

_HEAD: Final = Struct("<BI")

Operation = tuple[int, bytes, bytes]
"""PUT or DELETE, key, value."""


class DurableKV:
    """Keys and values that outlive the process. Any thread may call; writers share their syncs."""

    def __init__(self, fs: Filesystem, directory: str, policy: SyncPolicy | None = None) -> None:
        """Open a store, made if absent. Raises what `Log.open` raises."""
        self._items: dict[bytes, bytes] = {}
        self._bytes = 0
        self._logged_bytes = 0
        self._next = 1
        self._lock = threading.Lock()
        self._pending: deque[tuple[AppendHandle, Sequence[Operation]]] = deque()
        """What was logged and is not seen yet, in the log's order: that is the order of being seen,
        whichever writer wakes first."""
        options = OpenOptions(policy or SyncPolicy(), clock=time.monotonic_ns)
        self._log, found = Log.open(fs, directory, OWNER, options)
        try:
            self.replayed = self._replay(found)
            """Operations that were found in the log."""
        except BaseException:
            self._log.abort()
            raise

    def __enter__(self) -> DurableKV:
        """Return the store."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def __len__(self) -> int:
        """Return how many keys there are."""
        return len(self._items)

    def get(self, key: bytes) -> bytes | None:
        """Return a key's value, None without one. What is seen is durable."""
        return self._items.get(key)

    def items(self) -> Mapping[bytes, bytes]:
        """Return a copy of everything."""
        with self._lock:
            return dict(self._items)

    def put(self, key: bytes, value: bytes) -> None:
        """Set a key; durable when it returns. Raises WalError: then it may or may not be."""
        self._write([(PUT, key, value)])

    def put_many(self, pairs: Mapping[bytes, bytes]) -> None:
        """Set keys, all or none, with one sync."""
        if pairs:
            self._write([(PUT, key, value) for key, value in pairs.items()])

    def delete(self, key: bytes) -> bool:
        """Remove a key; tell whether it was there."""
        if key not in self._items:
            return False
        self._write([(DELETE, key, b"")])
        return True

    @property
    def log(self) -> Log:
        """The log underneath: `stats` counts its writes and syncs."""
        return self._log

    def compact(self) -> None:
        """Log the dictionary once more, and release what lies before it."""
        with self._lock:
            if self._pending:
                self._pending[-1][0].wait()
                self._see()
            before = self._next - 1
            pairs = list(self._items.items())
            handle = None
            for start in range(0, len(pairs), BATCH_ENTRIES_MAX):
                part = pairs[start : start + BATCH_ENTRIES_MAX]
                handle = self._log.append([self._record([(PUT, *pair) for pair in part])])
            if handle is not None:
                handle.wait()
            self._log.release(GROUP, before, TERM)
            self._logged_bytes = self._bytes

    def close(self) -> None:
        """Stop cleanly: what is damaged afterwards is recognised as damage."""
        self._log.seal_and_close()

    # ---- inside ----------------------------------------------------------------------------

    def _write(self, operations: Sequence[Operation]) -> None:
        with self._lock:
            handle = self._log.append([self._record(operations)])
            self._pending.append((handle, operations))
        handle.wait()  # outside of the lock: whoever waits meanwhile shares the next sync
        with self._lock:
            self._see()
            due = self._logged_bytes > max(LOG_BYTES_MIN, SLACK * self._bytes)
        if due:
            self.compact()

    def _see(self) -> None:
        """Apply what became durable. The lock is held."""
        while self._pending and self._pending[0][0].durable:
            self._apply(self._pending.popleft()[1])

    def _record(self, operations: Sequence[Operation]) -> Record:
        entries = [_HEAD.pack(op, len(key)) + key + value for op, key, value in operations]
        record = batch_record(GROUP, TERM, self._next, entries)
        self._next += len(entries)
        self._logged_bytes += len(record.body)
        return record

    def _apply(self, operations: Sequence[Operation]) -> None:
        for op, key, value in operations:
            before = self._items.pop(key, None)
            if before is not None:
                self._bytes -= len(key) + len(before)
            if op == PUT:
                self._items[key] = value
                self._bytes += len(key) + len(value)

    def _replay(self, found: Recovered) -> int:
        group = found.groups.get(GROUP)
        if group is None:
            return 0
        count = 0
        for ref in group.batches:
            operations = list(_operations(self._log.read(GROUP, ref)))
            self._apply(operations)
            self._logged_bytes += ref.size
            count += len(operations)
        self._next = group.last_index + 1
        return count


def _operations(record: Record) -> Iterator[Operation]:
    count = RecordHeader.unpack(record.header).count
    for entry in split_batch_body(count, record.body):
        op, key_len = _HEAD.unpack_from(entry)
        start = _HEAD.size + key_len
        yield op, bytes(entry[_HEAD.size : start]), bytes(entry[start:])


# ---- the command line --------------------------------------------------------------------------


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Keep keys and values in a log: the workshop's durable store."""


@main.command("put")
@click.argument("directory")
@click.argument("key")
@click.argument("value")
def put_command(directory: str, key: str, value: str) -> None:
    """Set a key. Example: put ./store greeting hello."""
    with DurableKV(OsFilesystem(), directory) as store:
        store.put(key.encode(), value.encode())


@main.command("get")
@click.argument("directory")
@click.argument("key")
def get_command(directory: str, key: str) -> None:
    """Print a key's value. Example: get ./store greeting."""
    with DurableKV(OsFilesystem(), directory) as store:
        value = store.get(key.encode())
    if value is None:
        click.echo(f"no key {key!r}", err=True)
        sys.exit(1)
    click.echo(value)


@main.command("write")
@click.argument("directory")
@click.option("--unsafe", is_flag=True, help="Acknowledge before the log has it: what not to do.")
def write_command(directory: str, *, unsafe: bool) -> None:
    """Write key after key, and print the number of each that is acknowledged, until killed."""
    store = DurableKV(OsFilesystem(), directory)
    kept: list[tuple[bytes, bytes]] = []
    number = len(store)
    while True:
        number += 1
        key, value = b"key %d" % number, b"value %d" % number
        if unsafe:
            kept.append((key, value))  # "buffered": in this process, and nowhere else
            if len(kept) == BATCH_ENTRIES_MAX:
                store.put_many(dict(kept))
                kept.clear()
        else:
            store.put(key, value)
        print(number, flush=True)


@main.command("check")
@click.argument("directory")
@click.argument("acknowledged", type=int)
def check_command(directory: str, acknowledged: int) -> None:
    """Say how many of the acknowledged keys of `write` are there. Exits with 1 if one is missing."""
    with DurableKV(OsFilesystem(), directory) as store:
        found = sum(
            store.get(b"key %d" % number) == b"value %d" % number
            for number in range(1, acknowledged + 1)
        )
        extra = len(store) - found
    click.echo(f"acknowledged {acknowledged}, found {found}, and {extra} more in flight")
    sys.exit(found < acknowledged)


if __name__ == "__main__":
    try:
        main()
    except WalError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(1)
