"""What the tests of the log's tools share: a call of the tool, and a byte that is changed."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner, Result

from wal.commands import wal_commands


def run(*arguments: object) -> Result:
    """Call `raftdeck wal`; anything but its own exit is an error."""
    result = CliRunner().invoke(wal_commands, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def flip(path: Path, offset: int) -> None:
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x10
    path.write_bytes(content)
