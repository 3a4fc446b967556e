"""Repair of a damaged log: what can still be read becomes a log again, and the original is kept.

Theory of operation
-------------------
A log that `recover` refuses is left alone by everything but this. What is kept of it is, per group,
the state that its readable frames tell: the newest term, vote and compaction point, and the batches
that follow one another without a gap from that point on. What lies behind a gap is of no use to a
group whose entries are in order; it is counted as lost.

Nothing is changed before a whole copy of the log stands beside it, durably: `DIR.damaged-N`. Then

1. `SEALED` in the directory is replaced by a note that names the copy. No open takes a log with such
   a `SEALED` (it is damaged, for all that recovery knows), so from here on no crash leaves a directory
   that would be taken for a log, and repairing again begins from the copy that the note names.
2. The repaired log is written to `DIR.repaired`, stopped cleanly, and compared with what was meant.
3. The old segments and spares are removed, the new segments take their place, durably.
4. The new `SEALED` takes the note's place: this one rename makes the directory a log again.

What this cannot repair is a promise. Entries that are lost here may have been acknowledged because
this node held them, and a node that votes without them may help to elect a leader that lacks them.
So a repaired node of a cluster is safe only if the others hold what it lost: where a majority is well,
restore its directory or leave it out. Repair is for when there is no such majority.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Final

from wal.errors import (
    CorruptLogError,
    FrameError,
    IdentityMismatchError,
    WalError,
    position_text,
)
from wal.excerpt import record_at, records_of, state_of, write_log
from wal.filesystem import Filesystem, ReadFilesystem
from wal.frame import Kind, body_of_hard_state
from wal.log import OpenOptions
from wal.recovery import Recovered, recover
from wal.replay import BatchRef, GroupLog
from wal.segment import (
    LOCK_NAME,
    SEALED_NAME,
    GroupCheckpoint,
    LogIdentity,
    decode_checkpoint,
    segment_number,
    spare_number,
)
from wal.survey import walk

__all__ = ["Loss", "Repair", "RepairError", "damage_text", "repair", "salvage"]

COPY_BYTES: Final = 4 << 20
COPIES_MAX: Final = 1_000
NOTE: Final = b"raftdeck wal repair: not a log; the original is in "
NOTE_BYTES_MAX: Final = 4_096


class RepairError(WalError):
    """The log cannot be repaired. The text says why, and that nothing was changed."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What one group lost: entries from `first` to at least `last`."""

    group: int
    first: int
    last: int


@dataclass(slots=True)
class Repair:
    """What a repair did. `copy` is empty if there was nothing to repair."""

    damage: str = ""
    copy: str = ""
    frames_damaged: int = 0
    frames_kept: int = 0
    losses: list[Loss] = field(default_factory=list)
    resumed: bool = False
    """Whether an interrupted repair was finished."""


def damage_text(error: CorruptLogError | IdentityMismatchError) -> str:
    """Return where a log is damaged and how, without what to do about it."""
    if isinstance(error, IdentityMismatchError) or not error.position:
        return str(error) if isinstance(error, IdentityMismatchError) else error.reason
    return f"{position_text(error.position)}: {error.reason}"


def _silent(text: str) -> None:
    del text  # nobody watches


def repair(
    fs: Filesystem,
    directory: str,
    options: OpenOptions | None = None,
    progress: Callable[[str], None] = _silent,
) -> Repair:
    """Repair a log that no process has open; see the module text.

    An intact log, one with a torn tail included, is left as it is. Raises LockedError, RepairError,
    OtherFormatError, OSError; at whatever point, it may be run again.
    """
    lock = fs.lock(f"{directory}/{LOCK_NAME}")
    try:
        done = Repair()
        noted = _noted(fs, directory)
        if noted is not None:
            done.copy, done.resumed = noted, True
            done.damage = "an interrupted repair"
        else:
            try:
                recover(fs, directory)
            except (CorruptLogError, IdentityMismatchError) as error:
                done.damage = damage_text(error)
            else:
                return done
        source = done.copy or directory
        found = salvage(fs, source, done)
        if not done.copy:
            progress("copying the damaged log aside")
            done.copy = _copy_aside(fs, directory)
            _write_note(fs, directory, done.copy)
        progress("writing what could be read")
        _rebuild(fs, directory, done.copy, found, options)
        return done
    finally:
        lock.release()


# ---- reading what can be read ------------------------------------------------------------------


@dataclass(slots=True)
class _Group:
    """What the readable frames say of one group."""

    log: GroupLog = field(default_factory=GroupLog)
    batches: dict[int, BatchRef] = field(default_factory=dict)
    """Live batches by base index, as far as they were found; released ones may be among them."""
    newest: int = 0
    """No base index is above it."""
    last_known: int = 0
    """Last index of the group at the newest moment that some frame tells of."""

    def take_checkpoint(self, checkpoint: GroupCheckpoint) -> None:
        log = self.log
        log.term, log.vote, log.config = checkpoint.term, checkpoint.vote, checkpoint.config
        self.release(checkpoint.released_index, checkpoint.released_term)
        self.last_known = max(checkpoint.last_index, checkpoint.released_index)
        self.truncate(self.last_known + 1)

    def take_batch(self, ref: BatchRef) -> None:
        """Take a batch: a new one, a copy, or one whose cut of what stood there was lost."""
        if ref.base_index <= self.log.released_index:
            return
        if ref.base_index <= self.newest:
            later = [base for base in self.batches if base >= ref.base_index]
            if later and self.batches[min(later)].term < ref.term:
                self.truncate(ref.base_index)
        self.newest = max(self.newest, ref.base_index)
        self.batches[ref.base_index] = ref
        self.last_known = max(self.last_known, ref.last_index)

    def truncate(self, index: int) -> None:
        for base in [base for base, ref in self.batches.items() if ref.last_index >= index]:
            del self.batches[base]
        self.last_known = min(self.last_known, index - 1)

    def release(self, index: int, term: int) -> None:
        if index > self.log.released_index:
            self.log.released_index, self.log.released_term = index, term

    def settle(self) -> int:
        """Keep what follows one another from the compaction point on; return where that ends."""
        following = self.log.released_index + 1
        while (ref := self.batches.get(following)) is not None:
            self.log.batches.append(ref)
            following = ref.last_index + 1
        return following - 1


def salvage(fs: ReadFilesystem, directory: str, done: Repair) -> Recovered:
    """Return the state that the readable frames of a damaged log tell; counts into `done`.

    Raises RepairError if nothing says whose log it is, OtherFormatError.
    """
    groups: dict[int, _Group] = {}
    identity: LogIdentity | None = None
    for sight in walk(fs, directory):
        if sight.damage is not None or sight.header is None:
            done.frames_damaged += 1
            continue
        header = sight.header
        if header.kind in (Kind.SEAL, Kind.OPEN):
            continue
        done.frames_kept += 1
        if header.kind is Kind.CHECKPOINT:
            try:
                checkpoint = decode_checkpoint(record_at(fs, directory, sight.position).body)
            except FrameError:
                done.frames_damaged += 1
                continue
            if identity is not None and identity != checkpoint.identity:
                raise RepairError(
                    f"{directory}: its segments belong to different nodes; nothing was changed."
                    " Put each back into its own directory"
                )
            identity = checkpoint.identity
            for part in checkpoint.groups:
                groups.setdefault(part.group, _Group()).take_checkpoint(part)
            continue
        group = groups.setdefault(header.group, _Group())
        if header.kind is Kind.BATCH:
            group.take_batch(
                BatchRef(
                    header.term, header.base_index, header.count, header.payload_len, sight.position
                )
            )
        elif header.kind is Kind.HARD_STATE:
            group.log.term = header.term
            body = record_at(fs, directory, sight.position).body
            group.log.vote, group.log.config = body_of_hard_state(body)
        elif header.kind is Kind.TRUNCATE:
            group.truncate(header.base_index)
        else:
            group.release(header.base_index, header.term)
            group.last_known = max(group.last_known, header.base_index)
    if identity is None:
        raise RepairError(
            f"{directory}: no readable frame says whose log it is; nothing was changed."
            " Restore the directory, or leave the node out"
        )
    for number, group in sorted(groups.items()):
        end = group.settle()
        if end < group.last_known:
            done.losses.append(Loss(number, end + 1, group.last_known))
    return Recovered(directory, {number: group.log for number, group in groups.items()}, identity)


# ---- writing it --------------------------------------------------------------------------------


def _names(fs: ReadFilesystem, directory: str) -> list[str]:
    """Return the files that make a log: segments, and the seal."""
    names = fs.listdir(directory)
    return [name for name in names if segment_number(name) or name == SEALED_NAME]


def _copy_aside(fs: Filesystem, directory: str) -> str:
    """Copy the log into a new directory beside it, durably; return its path."""
    for number in range(1, COPIES_MAX):
        copy = f"{directory}.damaged-{number}"
        if not fs.exists(copy):
            break
    else:
        raise RepairError(f"{directory}: {COPIES_MAX} copies stand beside it; remove some")
    fs.mkdirs(copy)
    for name in _names(fs, directory):
        with (
            closing(fs.open_read(f"{directory}/{name}")) as source,
            closing(fs.open(f"{copy}/{name}", create=True)) as target,
        ):
            offset, size = 0, source.size()
            while offset < size:
                piece = source.pread(min(COPY_BYTES, size - offset), offset)
                target.pwritev([piece], offset)
                offset += len(piece)
            target.sync()
    fs.sync_dir(copy)
    return copy


def _noted(fs: ReadFilesystem, directory: str) -> str | None:
    """Return the copy that an interrupted repair left its note about."""
    path = f"{directory}/{SEALED_NAME}"
    if not fs.exists(path):
        return None
    with closing(fs.open_read(path)) as file:
        content = file.pread(NOTE_BYTES_MAX, 0)
    if not content.startswith(NOTE):
        return None
    name = content[len(NOTE) :].decode("utf-8", "surrogateescape").rstrip("\n")
    head, slash, _ = directory.rpartition("/")
    copy = f"{head}{slash}{name}"
    if not fs.exists(copy):
        raise RepairError(f"{path}: names {copy}, and that is not there; put it back")
    return copy


def _write_note(fs: Filesystem, directory: str, copy: str) -> None:
    """Say, durably, that the directory is no log, and where the original is."""
    path, temporary = f"{directory}/{SEALED_NAME}", f"{directory}/{SEALED_NAME}.tmp"
    if fs.exists(temporary):
        fs.unlink(temporary)
    name = copy.rpartition("/")[2]
    with closing(fs.open(temporary, create=True)) as file:
        file.pwritev([NOTE + name.encode("utf-8", "surrogateescape") + b"\n"], 0)
        file.sync()
    fs.rename(temporary, path)
    fs.sync_dir(directory)


def _rebuild(
    fs: Filesystem, directory: str, copy: str, found: Recovered, options: OpenOptions | None
) -> None:
    """Write the repaired log, then put it where the damaged one was; see the module text."""
    fresh = f"{directory}.repaired"
    if fs.exists(fresh):
        for name in fs.listdir(fresh):
            fs.unlink(f"{fresh}/{name}")
    assert found.identity is not None
    write_log(fs, fresh, found.identity, records_of(fs, copy, found.groups), options)
    written = recover(fs, fresh, found.identity)
    if state_of(written) != state_of(found):
        raise RepairError(f"{fresh}: reads back as another log than was meant; check the disk")
    for name in fs.listdir(directory):
        if segment_number(name) or spare_number(name):
            fs.unlink(f"{directory}/{name}")
    for name in fs.listdir(fresh):
        if segment_number(name):
            fs.rename(f"{fresh}/{name}", f"{directory}/{name}")
    fs.sync_dir(directory)
    fs.sync_dir(fresh)
    fs.rename(f"{fresh}/{SEALED_NAME}", f"{directory}/{SEALED_NAME}")
    fs.sync_dir(directory)
    fs.sync_dir(fresh)
