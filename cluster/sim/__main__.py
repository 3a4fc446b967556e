"""`python -m cluster.sim`: what `raftdeck sim` is, where the console script is not installed."""

from __future__ import annotations

import sys

from cluster.cli_sim import sim
from cluster.cli_support import run

if __name__ == "__main__":
    sys.exit(run(sim, None))
