"""The console script `raftdeck`: the verbs of `cluster`, and those that draw.

This module imports nothing at load time, so that `raftdeck status` never pays for Textual.
"""

__all__ = ["main"]


def main() -> int:
    """Run one `raftdeck` command line and return its exit code."""
    from cluster import cli
    from cluster.cli_support import LazyGroup, LazyVerb

    assert isinstance(cli.raftdeck, LazyGroup)
    own = {
        "status": LazyVerb("dashboard.watch", "status", cli.VERBS["status"].help),
        "demo": LazyVerb("dashboard.demo", "demo", cli.VERBS["demo"].help),
        "sim": LazyVerb("dashboard.simulated", "sim", cli.VERBS["sim"].help),
        "export": LazyVerb("dashboard.export", "export", cli.VERBS["export"].help),
        "dash": LazyVerb(
            "dashboard.command", "dash", "Watch a cluster, and break it, on a screen."
        ),
    }
    cli.raftdeck.verbs = {**cli.VERBS, **own}
    return cli.main()
