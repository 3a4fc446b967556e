"""A log that the tools look at."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.wal.support import batch, fill_segments, open_log
from wal import hard_state_record


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A node's data directory with a log of two segments, ended without a clean stop."""
    log, _ = open_log(directory=tmp_path / "n3" / "wal")
    log.append([hard_state_record(0, 3, 1), batch(1, 2, group=4)])
    fill_segments(log, 1, 9)
    log.append([batch(10, 3)])
    log.abort()
    return tmp_path / "n3"
