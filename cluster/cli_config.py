"""`raftdeck config`: the settings in force, and where each came from."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from cluster.cli_support import (
    CONTEXT,
    LazyGroup,
    State,
    json_option,
    print_json,
    setting_option,
    verb,
)
from cluster.paths import config_path
from cluster.settings import SETTINGS
from cluster.tables import aligned

__all__ = ["config"]


@click.group(
    "config",
    cls=LazyGroup,
    verbs={},
    context_settings=CONTEXT,
    epilog="\b\nExample:\n  raftdeck config show",
)
def config() -> None:
    """Show settings; change them in the TOML file, by RAFTDECK_* variables, or by flags."""


@verb("path", example="raftdeck config path")
@click.pass_obj
def path(state: State) -> None:
    """Print where the settings file is, or would be."""
    click.echo(str(state.config or config_path()))


@verb("show", example="raftdeck config show\nRAFTDECK_NODES=5 raftdeck config show --json")
@json_option
@click.pass_context
def show(ctx: click.Context, /, as_json: bool, **values: Any) -> None:
    """Show every setting, its value, and where that comes from."""
    rows = []
    for setting in SETTINGS:
        value = values[setting.name]
        source = "default" if value is None else _source(ctx, setting.name, setting.variable)
        rows.append((setting.name.replace("_", "-"), value, setting.default, source))
    if as_json:
        settings = {n: {"value": v, "default": d, "source": s} for n, v, d, s in rows}
        print_json({"schema": "raftdeck.config/1", "settings": settings})
        return
    table = [[n, str(d if v is None else v), s] for n, v, d, s in rows]
    click.echo(aligned(["SETTING", "VALUE", "FROM"], table))


def _source(ctx: click.Context, name: str, variable: str) -> str:
    source = ctx.get_parameter_source(name)
    if source is ParameterSource.COMMANDLINE:
        return "flag"
    if source is ParameterSource.ENVIRONMENT:
        return f"environment ({variable})"
    state = ctx.find_object(State)
    return f"file ({(state.config if state else None) or config_path()})"


for _setting in reversed(SETTINGS):
    setting_option(_setting.name)(show)

config.add_command(path)
config.add_command(show)
