"""`python -m wal dump|verify|stat|tail|repair|convert|cwal`."""

from __future__ import annotations

from wal.commands import wal_commands

wal_commands(prog_name="python -m wal")
