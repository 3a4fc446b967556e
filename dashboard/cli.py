"""The console script `raftdeck`: every verb is declared in `cluster`, none of them here.

This module imports nothing at load time, so that `raftdeck status` never pays for Textual.
"""

__all__ = ["main"]


def main() -> int:
    """Run one `raftdeck` command line and return its exit code."""
    from cluster import cli

    return cli.main()
