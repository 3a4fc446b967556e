"""`raftdeck doctor`."""

from __future__ import annotations

from pathlib import Path

import click

from cluster.cli_support import json_option, note, print_json, setting_option, verb
from cluster.exits import Exit

__all__ = ["doctor"]


@verb("doctor", example="raftdeck doctor\nraftdeck doctor --data /mnt/fast --json")
@setting_option("data")
@json_option
@click.pass_context
def doctor(ctx: click.Context, /, data: str | None, as_json: bool) -> None:
    """Say whether this machine can run clusters, and measure its disk. Exits with 4 if not."""
    from cluster.doctor import document, examine
    from cluster.paths import default_data_dir
    from cluster.tables import aligned

    data_dir = Path(data).expanduser().absolute() if data else default_data_dir("deck")
    findings = examine(data_dir)
    answer = document(findings)
    if as_json:
        print_json(answer)
    else:
        click.echo(
            aligned(["CHECK", "", "FOUND"], [[f.name, f.verdict, f.found] for f in findings])
        )
        for finding in findings:
            if finding.remedy:
                note(f"{finding.name}: {finding.remedy}")
    if not answer["fit"]:
        note("this machine is not fit: raftdeck up would fail")
        ctx.exit(int(Exit.UNFIT))
