"""What one node is told at its start: `NodeConfig`, a JSON file written by the supervisor.

    {"format": 1, "cluster_id": "0f…", "cluster_name": "deck", "node": 1, "voters": [1, 2, 3],
     "run_dir": "/run/user/1000/raftdeck/deck", "data_dir": "/home/…/deck/n1", "groups": 1,
     "heartbeat_ms": 50, "election_ms_min": 150, "election_ms_max": 300,
     "wal": {"segment_bytes": 67108864, "fill_step_bytes": 4194304, "prepare": "recycle", …},
     "compression": "none", "retain_bytes": 0, "retain_s": 0, "power_loss": false,
     "recovery": "default", "seed": 1, "entry_options": {}}

Times are whole milliseconds, sizes bytes. `data_dir` is the node's own directory (`…/n1`), never
the cluster's. Unknown keys are refused: a misspelt timer must not silently be the default.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal, get_args

from node.exits import NodeExit, StartError
from wal.compression import CODECS
from wal.policy import SyncPolicy
from wal.recovery import RECOVERY_MODES, RecoveryMode

__all__ = [
    "CONFIG_FORMAT",
    "GROUPS_MAX",
    "LANES",
    "NODES_MAX",
    "ConfigError",
    "EntryOption",
    "Lane",
    "NodeConfig",
    "lane_endpoint",
    "lane_path",
    "policy_from",
]

CONFIG_FORMAT: Final = 1
NODES_MAX: Final = 15
"""A desk holds 15 nodes: 15 processes of about 40 MB each, and one digit more in every column."""
GROUPS_MAX: Final = 1024
CONFIG_BYTES_MAX: Final = 64 << 10
"""15 voters, two paths of 4 KiB and 32 options of 1 KiB fit several times."""
ENTRY_OPTIONS_MAX: Final = 32
TIMER_MS_MAX: Final = 60_000
RETAIN_BYTES_MAX: Final = 1 << 40
RETAIN_S_MAX: Final = 10 * 366 * 86_400
"""Ten years: what a number of seconds is sensibly asked to hold."""

Lane = Literal["control", "data", "client", "admin"]
LANES: Final[tuple[Lane, ...]] = get_args(Lane)

EntryOption = str | int | float | bool

_CLUSTER_ID = re.compile(r"[0-9a-f]{32}")
_CLUSTER_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


class ConfigError(StartError):
    """The configuration cannot be used (exit 64), or its format is newer than known (exit 76)."""

    def __init__(self, text: str, exit_code: NodeExit = NodeExit.USAGE) -> None:
        super().__init__(exit_code, text)


def lane_path(run_dir: Path, node: int, lane: Lane) -> Path:
    """Return the socket path of one lane of one node: `RUN_DIR/nI.LANE`."""
    return run_dir / f"n{node}.{lane}"


def lane_endpoint(run_dir: Path, node: int, lane: Lane) -> str:
    """Return the ZeroMQ endpoint of one lane of one node."""
    return f"ipc://{lane_path(run_dir, node, lane)}"


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Everything a node needs to know before it opens a file or a socket."""

    cluster_id: str
    """32 hexadecimal digits: 16 random bytes, drawn when the cluster was created."""
    cluster_name: str
    node: int
    voters: tuple[int, ...]
    run_dir: Path
    data_dir: Path
    groups: int = 1
    heartbeat_ms: int = 50
    election_ms_min: int = 150
    election_ms_max: int = 300
    wal: SyncPolicy = field(default_factory=SyncPolicy)
    compression: str = "none"
    """Codec of the batches that this node builds as a leader: none, lz4 or zstd."""
    retain_bytes: int = 0
    """Log kept behind each snapshot at least; 0: one segment."""
    retain_s: int = 0
    """How long log is kept though a snapshot stands for it; 0: no longer than that."""
    power_loss: bool = False
    """Whether what is not synced is kept in the process's memory (`wal.writeback`)."""
    recovery: RecoveryMode = "default"
    seed: int = 1
    entry_options: Mapping[str, EntryOption] = field(default_factory=dict)
    """Options of a supervised entry module that is not `node` itself; the product reads none."""

    def __post_init__(self) -> None:
        """Check every field; the first that is wrong raises `ConfigError`."""
        if not _CLUSTER_ID.fullmatch(self.cluster_id):
            raise ConfigError("cluster_id: 32 hexadecimal digits are needed")
        if not _CLUSTER_NAME.fullmatch(self.cluster_name):
            raise ConfigError(
                f"cluster_name: {self.cluster_name!r} (a-z, 0-9, '-', '_', 32 at most)"
            )
        _check_members(self.node, self.voters)
        _check_timers(self.heartbeat_ms, self.election_ms_min, self.election_ms_max)
        _require_int("groups", self.groups, 1, GROUPS_MAX)
        _require_int("seed", self.seed, 0, (1 << 64) - 1)
        _require_int("retain_bytes", self.retain_bytes, 0, RETAIN_BYTES_MAX)
        _require_int("retain_s", self.retain_s, 0, RETAIN_S_MAX)
        if self.compression not in CODECS:
            raise ConfigError(
                f"compression: {self.compression!r} is not one of {', '.join(CODECS)}"
            )
        if self.recovery not in RECOVERY_MODES:
            raise ConfigError(f"recovery: {self.recovery!r} is not one of {RECOVERY_MODES}")
        for name, path in (("run_dir", self.run_dir), ("data_dir", self.data_dir)):
            if not path.is_absolute():
                raise ConfigError(f"{name}: {str(path)!r} must be an absolute path")
        _check_options(self.entry_options)

    @property
    def cluster_id_bytes(self) -> bytes:
        """The cluster id as the 16 bytes that frames and segments carry."""
        return bytes.fromhex(self.cluster_id)

    @property
    def wal_dir(self) -> Path:
        """The directory of the node's segments and its `LOCK`."""
        return self.data_dir / "wal"

    @property
    def log_path(self) -> Path:
        """Where the supervisor sends the node's output."""
        return self.data_dir / "node.log"

    def endpoint(self, lane: Lane, node: int | None = None) -> str:
        """Return the endpoint of a lane of `node` (default: this node)."""
        return lane_endpoint(self.run_dir, self.node if node is None else node, lane)

    def to_json(self) -> str:
        """Return the file's content; `from_json` of it is equal to this value."""
        document = asdict(self) | {
            "format": CONFIG_FORMAT,
            "voters": list(self.voters),
            "run_dir": str(self.run_dir),
            "data_dir": str(self.data_dir),
            "entry_options": dict(self.entry_options),
        }
        return json.dumps(document, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> NodeConfig:
        """Decode and check one document; anything wrong is a `ConfigError`."""
        if len(text) > CONFIG_BYTES_MAX:
            raise ConfigError(f"the document exceeds {CONFIG_BYTES_MAX} bytes")
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"not JSON: {error}") from None
        if not isinstance(document, dict):
            raise ConfigError("a JSON object is needed")
        _check_format(document.pop("format", None))
        return cls(**_typed_fields(document))

    @classmethod
    def load(cls, path: Path) -> NodeConfig:
        """Read a configuration file; errors name the file."""
        try:
            with path.open("rb") as file:
                text = file.read(CONFIG_BYTES_MAX + 1)
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from None
        try:
            return cls.from_json(text)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}", error.exit_code) from None


def _check_format(version: object) -> None:
    if type(version) is not int or version < 1:
        raise ConfigError(f"format: {version!r}; {CONFIG_FORMAT} is needed")
    if version > CONFIG_FORMAT:
        raise ConfigError(
            f"format {version} is newer than {CONFIG_FORMAT}, the newest this version reads;"
            " update raftdeck",
            NodeExit.OTHER_FORMAT,
        )


def _typed_fields(document: dict[str, Any]) -> dict[str, Any]:
    """Turn JSON's types into the fields' own, refusing unknown, missing and mistyped keys."""
    known = {spec.name for spec in fields(NodeConfig)}
    if unknown := sorted(document.keys() - known):
        raise ConfigError(f"unknown key {unknown[0]!r}; known are: {', '.join(sorted(known))}")
    required = {"cluster_id", "cluster_name", "node", "voters", "run_dir", "data_dir"}
    if missing := sorted(required - document.keys()):
        raise ConfigError(f"missing key {missing[0]!r}")
    for name, kind in _JSON_TYPES.items():
        if name in document and not isinstance(document[name], kind):
            raise ConfigError(f"{name}: {document[name]!r} has the wrong type")
    typed = dict(document)
    typed["voters"] = tuple(document["voters"])
    typed["run_dir"] = Path(document["run_dir"])
    typed["data_dir"] = Path(document["data_dir"])
    if "wal" in document:
        typed["wal"] = policy_from(document["wal"])
    return typed


_JSON_TYPES: Final[dict[str, type]] = {
    "cluster_id": str,
    "cluster_name": str,
    "voters": list,
    "run_dir": str,
    "data_dir": str,
    "wal": dict,
    "compression": str,
    "power_loss": bool,
    "recovery": str,
    "entry_options": dict,
}


def policy_from(document: Mapping[str, Any]) -> SyncPolicy:
    """Decode a log policy from JSON's types; anything wrong is a `ConfigError`."""
    defaults = asdict(SyncPolicy())
    for name, value in document.items():
        if name not in defaults:
            raise ConfigError(f"unknown key 'wal.{name}'; known are: {', '.join(sorted(defaults))}")
        if type(value) is not type(defaults[name]):
            raise ConfigError(f"wal.{name}: {value!r} has the wrong type")
    try:
        return SyncPolicy(**document)
    except ValueError as error:
        raise ConfigError(f"wal: {error}") from None


def _require_int(name: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise ConfigError(f"{name}: {value!r} is not a whole number from {low} to {high}")


def _check_members(node: int, voters: tuple[int, ...]) -> None:
    if not 1 <= len(voters) <= NODES_MAX:
        raise ConfigError(f"voters: {len(voters)} of them; 1 to {NODES_MAX} are possible")
    for voter in voters:
        _require_int("voters", voter, 1, 0xFFFF_FFFF)
    if len(set(voters)) != len(voters):
        raise ConfigError(f"voters: {list(voters)} names a node twice")
    _require_int("node", node, 1, 0xFFFF_FFFF)
    if node not in voters:
        raise ConfigError(f"node: {node} is not among the voters {list(voters)}")


def _check_timers(heartbeat_ms: int, election_ms_min: int, election_ms_max: int) -> None:
    _require_int("heartbeat_ms", heartbeat_ms, 1, TIMER_MS_MAX)
    _require_int("election_ms_min", election_ms_min, 1, TIMER_MS_MAX)
    _require_int("election_ms_max", election_ms_max, 1, TIMER_MS_MAX)
    if not heartbeat_ms < election_ms_min <= election_ms_max:
        raise ConfigError(
            "timers: heartbeat_ms < election_ms_min <= election_ms_max does not hold for"
            f" {heartbeat_ms}, {election_ms_min}, {election_ms_max}"
        )


def _check_options(options: Mapping[str, EntryOption]) -> None:
    if len(options) > ENTRY_OPTIONS_MAX:
        raise ConfigError(f"entry_options: {len(options)}; {ENTRY_OPTIONS_MAX} at most")
    for name, value in options.items():
        plain: object = value
        if not isinstance(plain, str | int | float):
            raise ConfigError(f"entry_options: {name!r} must map a name to a plain value")
