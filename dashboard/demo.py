"""`raftdeck demo` on a terminal: the tour of the headless demo, on the dashboard."""

from __future__ import annotations

import copy
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import click

from cluster.cli_support import note
from cluster.demo import demo_command
from cluster.demo.command import EXITS, prepare
from cluster.exits import Exit
from dashboard.command import look_of, run_app, wall_clock_ms

__all__ = ["demo"]


def _on_terminal() -> bool:
    seen = sys.stdin.isatty() and sys.stdout.isatty() and sys.stderr.isatty()
    return seen and os.environ.get("TERM", "") not in ("", "dumb")


def _many_lines() -> Path | None:
    """Return a text of many short lines that every Python has: small values show batching best."""
    found = importlib.util.find_spec("pydoc_data.topics")
    return Path(found.origin) if found is not None and found.origin else None


def _demo(**options: Any) -> int:
    ascii_only, light = options.pop("ascii_only"), options.pop("light")
    if options["headless"] or options["as_json"] or not _on_terminal():
        assert demo_command.callback is not None
        return int(demo_command.callback(**options))
    options["source"] = options["source"] or _many_lines()
    wish = (options["nodes"], options["seconds"], options["source"], options["data"])
    return _on_screen(*wish, ascii_only=ascii_only, light=light)


def _on_screen(
    nodes: int,
    seconds: float,
    source: Path | None,
    data: Path | None,
    *,
    ascii_only: bool,
    light: bool,
) -> int:
    """Start a cluster, show the tour on it, and end it when the dashboard is left."""
    from cluster.local import LocalCluster
    from dashboard.conductor import Conductor
    from dashboard.desk import Desk
    from dashboard.hands import LiveHands
    from dashboard.live import LiveSource

    spec, plan = prepare(nodes, seconds, source, data)
    note(f"starting {nodes} nodes; data: {spec.data_dir}")
    with LocalCluster.launch(spec) as cluster:
        cluster.wait_ready()
        frames, hands = LiveSource(cluster.run_dir), LiveHands(cluster.run_dir)
        conductor = Conductor(cluster.run_dir, plan, seconds)
        try:
            conductor.start()
            question = f"its {nodes} nodes end; the data stays in {spec.data_dir}"
            desk = Desk(frames, wall_clock_ms, hands=hands, tour=conductor, leave_question=question)
            look = look_of(ascii_only=ascii_only, light=light, hz=None, data_dir=spec.data_dir)
            code = run_app(desk, look)
        finally:
            conductor.stop()
            frames.close()
            hands.close()
    return code or _tell(conductor, spec.data_dir)


def _tell(conductor: Any, data_dir: Path) -> int:
    """Say on the plain terminal how it went."""
    report = conductor.report
    try:
        if conductor.error is not None:
            raise conductor.error
        if report is None:
            note(f"left before the end: {conductor.acked:,} puts acknowledged, not read back")
            return int(Exit.HELD)
        for line in report.lines():
            click.echo(line)
        return int(EXITS[report.verdict])
    finally:
        note(f"data: {data_dir}")


def _command() -> click.Command:
    """Return the headless demo's command with this module's callback and options."""
    command = copy.copy(demo_command)
    command.callback = _demo
    command.params = [
        *demo_command.params,
        click.Option(["--ascii", "ascii_only"], is_flag=True, help="ASCII signs only."),
        click.Option(["--light"], is_flag=True, help="Begin with the light theme."),
    ]
    return command


demo = _command()
"""The verb."""
