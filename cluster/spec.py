"""What a cluster is: `ClusterSpec`, kept as `CLUSTER.json` in its data directory.

    {"format": 1, "cluster_id": "0f…", "name": "deck", "nodes": 5, "groups": 1,
     "heartbeat_ms": 50, "election_ms_min": 150, "election_ms_max": 300,
     "wal": {"segment_bytes": 67108864, "fill_step_bytes": 4194304, "prepare": "recycle", …},
     "compression": "none", "retain_bytes": 0, "retain_s": 0, "power_loss": false,
     "recovery": "default", "seed": 1, "recording_bytes": 67108864, "entry_module": "node",
     "entry_paths": [], "entry_options": {}}

Cluster id, name, nodes and groups are fixed when the data directory is made; the rest may change
from one `up` to the next. Beside it `NODES.json` names the nodes whose directories were prepared
(`{"format": 1, "prepared": [1, 2, 3]}`): a node never makes its own, so one that is empty was emptied.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

from cluster.exits import CommandError, Exit
from cluster.paths import check_name
from node.config import GROUPS_MAX, NODES_MAX, ConfigError, EntryOption, NodeConfig, policy_from
from node.exits import NodeExit, StartError
from node.identity import Identity, claim_directory, recognise_directory, write_atomically
from wal.policy import SyncPolicy
from wal.recovery import RecoveryMode

__all__ = [
    "NODES_FILE",
    "SPEC_FILE",
    "SPEC_FORMAT",
    "ClusterSpec",
    "load_spec",
    "prepare_data_dir",
]

SPEC_FILE: Final = "CLUSTER.json"
NODES_FILE: Final = "NODES.json"
SPEC_FORMAT: Final = 1
SPEC_BYTES_MAX: Final = 64 << 10
STOP_TIMEOUT_MS_MAX: Final = 60_000
RECORDING_BYTES_MAX: Final = 16 << 30

_MODULE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_FIXED: Final = ("cluster_id", "name", "nodes", "groups")
_OWN_FILES: Final = frozenset({"LOCK", "supervisor.log", "supervisor.log.1"})
_LEFTOVER = re.compile(r"\.CLUSTER\.json\.[0-9]+\.tmp")
"""What a launcher that was killed while it wrote the first `CLUSTER.json` leaves."""


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """One cluster: everything that a supervisor must be told."""

    name: str
    data_dir: Path
    nodes: int = 3
    groups: int = 1
    cluster_id: str = field(default_factory=lambda: secrets.token_hex(16))
    heartbeat_ms: int = 50
    election_ms_min: int = 150
    election_ms_max: int = 300
    wal: SyncPolicy = field(default_factory=SyncPolicy)
    compression: str = "none"
    retain_bytes: int = 0
    retain_s: int = 0
    power_loss: bool = False
    """Whether nodes keep in memory what is not synced: SIGKILL is a power cut (`wal.writeback`)."""
    recovery: RecoveryMode = "default"
    """What a node does about a torn tail at its start (`wal.recovery`)."""
    seed: int = 1
    stop_timeout_ms: int = 5_000
    """How long a clean stop may take before the node is killed."""
    recording_bytes: int = 64 << 20
    """How much of what happened is kept in the data directory (`cluster.recorder`); 0: nothing."""
    entry_module: str = "node"
    """What `python -m` runs as a node; tests start nodes with planted bugs by it."""
    entry_paths: tuple[Path, ...] = ()
    """Directories put on the node's module search path, before all others."""
    entry_options: Mapping[str, EntryOption] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check every field; the first that is wrong raises `CommandError` (usage)."""
        check_name(self.name)
        _require("nodes", self.nodes, 1, NODES_MAX)
        _require("groups", self.groups, 1, GROUPS_MAX)
        _require("stop_timeout_ms", self.stop_timeout_ms, 1, STOP_TIMEOUT_MS_MAX)
        _require("recording_bytes", self.recording_bytes, 0, RECORDING_BYTES_MAX)
        if not self.data_dir.is_absolute():
            raise CommandError(Exit.USAGE, f"data directory {self.data_dir}: give an absolute path")
        if not _MODULE.fullmatch(self.entry_module):
            raise CommandError(Exit.USAGE, f"entry module {self.entry_module!r} is no module name")
        for path in self.entry_paths:
            if not path.is_absolute():
                raise CommandError(Exit.USAGE, f"entry path {path}: give an absolute path")
        try:
            self.node_config(1, Path("/"))
        except ConfigError as error:
            raise CommandError(Exit.USAGE, str(error)) from None

    @property
    def node_ids(self) -> tuple[int, ...]:
        """Return the nodes' ids: 1 to `nodes`."""
        return tuple(range(1, self.nodes + 1))

    def node_dir(self, node: int) -> Path:
        """Return a node's own data directory."""
        return self.data_dir / f"n{node}"

    def node_config(self, node: int, run_dir: Path) -> NodeConfig:
        """Return what node `node` is told when its sockets are in `run_dir`."""
        return NodeConfig(
            cluster_id=self.cluster_id,
            cluster_name=self.name,
            node=node,
            voters=self.node_ids,
            run_dir=run_dir,
            data_dir=self.node_dir(node),
            groups=self.groups,
            heartbeat_ms=self.heartbeat_ms,
            election_ms_min=self.election_ms_min,
            election_ms_max=self.election_ms_max,
            wal=self.wal,
            compression=self.compression,
            retain_bytes=self.retain_bytes,
            retain_s=self.retain_s,
            power_loss=self.power_loss,
            recovery=self.recovery,
            seed=self.seed,
            entry_options=self.entry_options,
        )

    def to_json(self) -> str:
        """Return the content of `CLUSTER.json`; where it lies is not part of it."""
        document = asdict(self) | {
            "format": SPEC_FORMAT,
            "entry_paths": [str(path) for path in self.entry_paths],
            "entry_options": dict(self.entry_options),
        }
        del document["data_dir"]
        return json.dumps(document, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, data_dir: Path) -> ClusterSpec:
        """Decode what `to_json` made; anything wrong is a `CommandError`."""
        try:
            if len(text) > SPEC_BYTES_MAX:
                raise ValueError(f"more than {SPEC_BYTES_MAX} bytes")
            document = json.loads(text)
            version = document.pop("format")
            if type(version) is int and version > SPEC_FORMAT:
                raise CommandError(
                    Exit.UNFIT,
                    f"format {version} is newer than {SPEC_FORMAT}, the newest this version reads;"
                    " update raftdeck",
                )
            return cls(data_dir=data_dir, **_typed(document))
        except ConfigError as error:
            raise CommandError(Exit.USAGE, str(error)) from None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise CommandError(Exit.USAGE, f"not a cluster's description: {error!r}") from None


def load_spec(data_dir: Path) -> ClusterSpec | None:
    """Read a data directory's `CLUSTER.json`; None if there is none. Errors name the file."""
    path = data_dir / SPEC_FILE
    try:
        with path.open("rb") as file:
            text = file.read(SPEC_BYTES_MAX + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise CommandError(Exit.UNFIT, f"{path}: {error.strerror}") from None
    try:
        return ClusterSpec.from_json(text, data_dir)
    except CommandError as error:
        raise CommandError(error.exit_code, f"{path}: {error}") from None


def prepare_data_dir(spec: ClusterSpec) -> None:
    """Write `CLUSTER.json` into a new data directory, or check that the directory is this cluster's.

    Called with the directory's lock held. Refuses (usage) a directory that holds something else,
    and leaves it as it was. Each node's own directory is prepared here, once.
    """
    found = load_spec(spec.data_dir)
    if found is None:
        names = {path.name for path in spec.data_dir.iterdir()} - _OWN_FILES
        if others := sorted(name for name in names if not _LEFTOVER.fullmatch(name)):
            raise CommandError(
                Exit.USAGE,
                f"data directory {spec.data_dir}: holds {others[0]!r} and no {SPEC_FILE};"
                " give --data an empty directory, or one that raftdeck made",
            )
    else:
        for name in _FIXED:
            if getattr(found, name) != getattr(spec, name):
                raise CommandError(
                    Exit.USAGE,
                    f"data directory {spec.data_dir}: holds a cluster with {name} ="
                    f" {getattr(found, name)}, not {getattr(spec, name)}; use its own, or give"
                    " --data an empty directory",
                )
    if found is None or replace(found, data_dir=spec.data_dir) != spec:
        write_atomically(spec.data_dir / SPEC_FILE, spec.to_json())
    _prepare_nodes(spec)


def _prepare_nodes(spec: ClusterSpec) -> None:
    """Give every node its directory with its identity, once for ever (docs/adr/0010).

    `NODES.json` is written when they are durable, and no node is started before: a crash in between
    prepares them once more. A node whose directory is damaged or not its own is left to say so itself;
    it counts as prepared, for it may have served before.
    """
    path = spec.data_dir / NODES_FILE
    prepared = _prepared_nodes(path, spec)
    missing = [node for node in spec.node_ids if node not in prepared]
    if not missing:
        return
    for node in missing:
        identity = Identity(spec.cluster_id, node)
        try:
            claim_directory(spec.node_dir(node), identity)
        except StartError as error:
            _leave_to_node(spec.node_dir(node), identity, error)
    document = {"format": SPEC_FORMAT, "prepared": sorted({*prepared, *missing})}
    write_atomically(path, json.dumps(document) + "\n")


def _leave_to_node(data_dir: Path, identity: Identity, error: StartError) -> None:
    """Raise what kept a directory from being prepared, unless its node will find the same.

    A node whose directory took no identity (no space, read-only) would take it for an emptied one.
    """
    try:
        recognise_directory(data_dir, identity)
    except StartError as found:
        if found.exit_code != NodeExit.CORRUPT_LOG:
            return
    raise CommandError(Exit.UNFIT, f"n{identity.node}: {error}") from None


def _prepared_nodes(path: Path, spec: ClusterSpec) -> set[int]:
    """Read `NODES.json`; the empty set if there is none. Errors name the file (unfit)."""
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(SPEC_BYTES_MAX))
        version, prepared = document["format"], document["prepared"]
        if type(version) is int and version > SPEC_FORMAT:
            raise CommandError(
                Exit.UNFIT,
                f"{path}: format {version} is newer than {SPEC_FORMAT}, the newest this version"
                " reads; update raftdeck",
            )
        if type(prepared) is list and all(type(node) is int for node in prepared):
            return set(prepared)
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise CommandError(Exit.UNFIT, f"{path}: {error.strerror}; restore the file") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _not_a_list(path, spec) from None
    raise _not_a_list(path, spec)


def _not_a_list(path: Path, spec: ClusterSpec) -> CommandError:
    whole = json.dumps({"format": SPEC_FORMAT, "prepared": list(spec.node_ids)})
    return CommandError(
        Exit.UNFIT,
        f"{path}: not a list of the prepared nodes; restore the file, or, if this cluster ever"
        f" served, write into it: {whole}",
    )


def _typed(document: dict[str, Any]) -> dict[str, Any]:
    known = {spec.name for spec in fields(ClusterSpec)} - {"data_dir"}
    if unknown := sorted(document.keys() - known):
        raise CommandError(Exit.USAGE, f"unknown key {unknown[0]!r}")
    if type(document.get("power_loss", False)) is not bool:
        raise ValueError("power_loss is true or false")
    typed = dict(document)
    if "wal" in document:
        typed["wal"] = policy_from(document["wal"])
    if "entry_paths" in document:
        typed["entry_paths"] = tuple(Path(path) for path in document["entry_paths"])
    return typed


def _require(name: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise CommandError(
            Exit.USAGE, f"{name}: {value!r} is not a whole number from {low} to {high}"
        )
