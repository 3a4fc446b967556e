"""`python -m wal dump|verify|stat DIR`."""

from __future__ import annotations

from wal.inspect import wal_commands

wal_commands(prog_name="python -m wal")
