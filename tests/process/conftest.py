"""Every process test has runtime and state directories of its own, with short socket paths."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.hand import Hand, Start, config_for


@pytest.fixture(autouse=True)
def desk(monkeypatch: pytest.MonkeyPatch):
    """Point raftdeck at fresh directories; the test's clusters are down when it ends."""
    root = Path(tempfile.mkdtemp(prefix="rd-"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(root))
    monkeypatch.setenv("XDG_STATE_HOME", str(root / "state"))
    yield root
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def start(desk: Path) -> Iterator[Start]:
    """Start single nodes below the test's desk; what still runs afterwards is killed."""
    hands: list[Hand] = []

    def make(config=None, module="node", **options) -> Hand:
        hands.append(Hand(config or config_for(desk), module, options))
        return hands[-1].start()

    yield make
    for hand in hands:
        hand.close()
