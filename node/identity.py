"""Whose data a directory is: `IDENTITY.json`, written once, checked at every start.

    {"format": 1, "cluster_id": "0f…", "node": 1}

A directory with segments and no identity is refused too: someone deleted or mixed up files, and
a node that trusted it could vote twice in one term. So is a directory that was prepared for a node
and has no identity any more: it was emptied, and with it went votes and entries that others count on
(docs/adr/0010). Written atomically: temporary file, fsync, rename, fsync of the directory; a crash
leaves the old state or the new one.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from node.exits import NodeExit, StartError

__all__ = [
    "IDENTITY_FILE",
    "IDENTITY_FORMAT",
    "Identity",
    "IdentityError",
    "claim_directory",
    "encode_identity",
    "read_identity",
    "recognise",
    "recognise_directory",
    "write_atomically",
]

IDENTITY_FILE: Final = "IDENTITY.json"
IDENTITY_FORMAT: Final = 1
IDENTITY_BYTES_MAX: Final = 4096


class IdentityError(StartError):
    """The data directory is not this node's, is unreadable, or is of a newer format."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Which node of which cluster a data directory belongs to."""

    cluster_id: str
    node: int


def claim_directory(data_dir: Path, identity: Identity) -> None:
    """Create `data_dir` with this identity, or check that it already has it.

    Raises `IdentityError` with exit code 78 (another cluster's or node's), 76 (newer format) or
    73 (cannot be used). Nothing in the directory is changed when it raises.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = read_identity(data_dir)
        if found is None:
            _refuse_orphans(data_dir)
            write_atomically(data_dir / IDENTITY_FILE, encode_identity(identity))
            return
    except OSError as error:
        raise IdentityError(
            NodeExit.DATA_DIR_UNUSABLE,
            f"data directory {data_dir}: {error.strerror}; check its owner, mode and free space",
        ) from None
    _compare(data_dir, found, identity)


def recognise_directory(data_dir: Path, identity: Identity) -> None:
    """Check that `data_dir`, which was prepared for this node, has its identity. Changes nothing.

    Raises as `claim_directory` does, and `IdentityError` with exit code 65 where there is none.
    """
    try:
        text = _read(data_dir / IDENTITY_FILE)
        if text is None:
            _refuse_orphans(data_dir)
    except OSError as error:
        raise IdentityError(
            NodeExit.DATA_DIR_UNUSABLE,
            f"data directory {data_dir}: {error.strerror}; check its owner and mode",
        ) from None
    recognise(data_dir, text, identity)


def recognise(data_dir: Path, text: bytes | None, identity: Identity) -> None:
    """Check the content of a prepared directory's identity file; None: there is no such file."""
    if text is None:
        raise IdentityError(
            NodeExit.CORRUPT_LOG,
            f"{data_dir}: {IDENTITY_FILE} is gone: the directory was emptied, and with it the votes"
            f" and entries of n{identity.node} that others count on; restore the directory. The"
            " node stays out: begun anew it could vote twice in one term",
        )
    _compare(data_dir, _decode(data_dir / IDENTITY_FILE, text), identity)


def encode_identity(identity: Identity) -> str:
    """Return the content of an identity file."""
    document = {"format": IDENTITY_FORMAT, "cluster_id": identity.cluster_id}
    return json.dumps(document | {"node": identity.node}, indent=2) + "\n"


def read_identity(data_dir: Path) -> Identity | None:
    """Return the directory's identity, or None where it has none. `IdentityError` if unreadable."""
    path = data_dir / IDENTITY_FILE
    text = _read(path)
    return None if text is None else _decode(path, text)


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(IDENTITY_BYTES_MAX)
    except FileNotFoundError:
        return None


def _decode(path: Path, text: bytes) -> Identity:
    try:
        document = json.loads(text)
        version = document["format"]
        if type(version) is int and version > IDENTITY_FORMAT:
            raise IdentityError(
                NodeExit.OTHER_FORMAT,
                f"{path}: format {version} is newer than {IDENTITY_FORMAT}, the newest this version"
                " reads; update raftdeck",
            )
        cluster_id, node = document["cluster_id"], document["node"]
    except (ValueError, KeyError, TypeError, RecursionError):
        cluster_id = node = None
    if not isinstance(cluster_id, str) or type(node) is not int:
        raise IdentityError(
            NodeExit.DATA_DIR_UNUSABLE,
            f"{path}: not an identity file; restore it: the node does not start without",
        )
    return Identity(cluster_id, node)


def write_atomically(path: Path, text: str) -> None:
    """Replace `path` by `text` durably: after a crash it holds the old content or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _refuse_orphans(data_dir: Path) -> None:
    """Refuse a directory that has a log and no identity."""
    wal_dir = data_dir / "wal"
    if wal_dir.is_dir() and any(wal_dir.glob("*.wal")):
        raise IdentityError(
            NodeExit.FOREIGN_IDENTITY,
            f"{data_dir}: holds a log but no {IDENTITY_FILE}; restore that file: the node does not"
            " start without",
        )


def _compare(data_dir: Path, found: Identity, wanted: Identity) -> None:
    if found.cluster_id != wanted.cluster_id:
        raise IdentityError(
            NodeExit.FOREIGN_IDENTITY,
            f"{data_dir}: belongs to cluster {found.cluster_id}, not to {wanted.cluster_id};"
            " give this cluster a data directory of its own",
        )
    if found.node != wanted.node:
        raise IdentityError(
            NodeExit.FOREIGN_IDENTITY,
            f"{data_dir}: belongs to node n{found.node}, not to n{wanted.node};"
            " put the node directories back under their own names",
        )
