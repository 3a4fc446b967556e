"""Settings that may come from a flag, the environment, a TOML file, or a default; in that order.

One table. A verb's option that bears a setting's name takes its value from all four places;
`raftdeck config show` says which one it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

from cluster.exits import CommandError, Exit
from wal.compression import CODECS
from wal.policy import Prepare
from wal.recovery import RECOVERY_MODES

__all__ = ["SETTINGS", "SETTINGS_BY_NAME", "Setting", "read_settings"]

SETTINGS_BYTES_MAX: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. `default` is what happens without it, for people; None in a verb means that."""

    name: str
    kind: type[int] | type[str]
    help: str
    default: str
    metavar: str = ""
    choices: tuple[str, ...] = ()

    @property
    def variable(self) -> str:
        """The environment variable."""
        return f"RAFTDECK_{self.name.upper()}"

    @property
    def flag(self) -> str:
        """The long option, and the key in the TOML file without its dashes."""
        return "--" + self.name.replace("_", "-")


SETTINGS: Final[tuple[Setting, ...]] = (
    Setting(
        "cluster", str, "Name or data directory of the cluster.", "the only running one",
        "NAME|DIR",
    ),
    Setting("name", str, "Name of the cluster.", "deck", "NAME"),
    Setting(
        "data", str, "Data directory of the cluster.",
        "~/.local/state/raftdeck/clusters/NAME", "DIR",
    ),
    Setting("nodes", int, "How many nodes, 1 to 15.", "3", "N"),
    Setting("groups", int, "How many Raft groups share the key space.", "1", "N"),
    Setting("heartbeat_ms", int, "Heartbeat interval.", "50", "MS"),
    Setting("election_ms_min", int, "Shortest election timeout.", "150", "MS"),
    Setting("election_ms_max", int, "Longest election timeout.", "300", "MS"),
    Setting("segment_bytes", int, "Size of a log segment.", "67108864", "BYTES"),
    Setting("fill_step_bytes", int, "Zeros are written ahead in such steps.", "4194304", "BYTES"),
    Setting(
        "prepare", str, "How log segments are prepared.", "recycle", choices=get_args(Prepare)
    ),
    Setting(
        "compression", str, "Codec of new batches; the logs hold what was written before as it is.",
        "none", choices=tuple(CODECS),
    ),
    Setting(
        "retain_bytes", int, "Log kept behind each snapshot at least; 0: one segment.", "0", "BYTES"
    ),
    Setting(
        "retain_s", int, "Keep log so long though a snapshot stands for it, 1 GiB at most.", "0",
        "S",
    ),
    Setting(
        "wal", str, "How the log uses its disk: names and fields (docs/wal.md).", "natural",
        "POLICY",
    ),
    Setting(
        "recovery", str, "What a start does about a torn tail (docs/durability.md).", "default",
        choices=RECOVERY_MODES,
    ),
)  # fmt: skip

SETTINGS_BY_NAME: Final[Mapping[str, Setting]] = {setting.name: setting for setting in SETTINGS}


def read_settings(path: Path, *, required: bool) -> dict[str, Any]:
    """Read a TOML file of settings; {} if it does not exist and is not `required`.

    A key that is no setting, or a value of the wrong type, is a usage error that names the valid
    ones: a misspelt key must not silently do nothing.
    """
    try:
        with path.open("rb") as file:
            text = file.read(SETTINGS_BYTES_MAX + 1)
    except FileNotFoundError:
        if not required:
            return {}
        raise CommandError(Exit.USAGE, f"settings file {path}: no such file") from None
    except OSError as error:
        raise CommandError(Exit.USAGE, f"settings file {path}: {error.strerror}") from None
    import tomllib

    try:
        document = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CommandError(Exit.USAGE, f"settings file {path}: {error}") from None
    found = {}
    for key, value in document.items():
        setting = SETTINGS_BY_NAME.get(key.replace("-", "_"))
        if setting is None:
            names = ", ".join(name.replace("_", "-") for name in SETTINGS_BY_NAME)
            raise CommandError(
                Exit.USAGE, f"settings file {path}: no setting {key!r}; valid are: {names}"
            )
        if type(value) is not setting.kind:
            kind = "a whole number" if setting.kind is int else "a text"
            raise CommandError(Exit.USAGE, f"settings file {path}: {key} must be {kind}")
        found[setting.name] = value
    return found
