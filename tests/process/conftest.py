"""Every process test has runtime and state directories of its own, with short socket paths."""

import shutil
import tempfile
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def desk(monkeypatch: pytest.MonkeyPatch):
    """Point raftdeck at fresh directories; the test's clusters are down when it ends."""
    root = Path(tempfile.mkdtemp(prefix="rd-"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(root))
    monkeypatch.setenv("XDG_STATE_HOME", str(root / "state"))
    yield root
    shutil.rmtree(root, ignore_errors=True)
