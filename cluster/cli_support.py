"""What every verb of the command line shares: options, settings, output, and how it ends.

Imports click and nothing slow: `raftdeck --help` loads this module and no verb.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TextIO, TypeVar

import click

from cluster.exits import CommandError, Exit

if TYPE_CHECKING:
    from cluster.local import LocalCluster

__all__ = [
    "LazyGroup",
    "LazyVerb",
    "State",
    "Verb",
    "attach",
    "cluster_option",
    "json_option",
    "note",
    "print_json",
    "run",
    "setting_option",
    "verb",
]

_Function = TypeVar("_Function", bound=Callable[..., Any])

CONTEXT: Final[dict[str, Any]] = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": 100,
}


@dataclass(slots=True)
class State:
    """What the options that stand before a verb said. One per run of the program."""

    debug: bool = False
    config: Path | None = None

    def file_settings(self) -> dict[str, Any]:
        """Return the settings of the TOML file."""
        from cluster.paths import config_path
        from cluster.settings import read_settings

        return read_settings(self.config or config_path(), required=self.config is not None)


class LazyVerb(NamedTuple):
    """Where a verb is, and its line in the help of its group."""

    module: str
    attribute: str
    help: str


class LazyGroup(click.Group):
    """A group that names its verbs when given a wrong one, and imports those in its table late."""

    def __init__(self, *args: Any, verbs: Mapping[str, LazyVerb], **extra: Any) -> None:
        super().__init__(*args, **extra)
        self.verbs = verbs

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of the table."""
        return [*self.verbs, *(name for name in self.commands if name not in self.verbs)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a verb."""
        found = self.verbs.get(cmd_name)
        if found is None:
            return super().get_command(ctx, cmd_name)
        try:
            module = importlib.import_module(found.module)
        except ModuleNotFoundError as error:
            if error.name != found.module:
                raise
            raise CommandError(
                Exit.UNFIT, f"{cmd_name}: this installation has no {found.module}"
            ) from None
        command = getattr(module, found.attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing one."""
        rows = [(name, found.help) for name, found in self.verbs.items()]
        for name, command in sorted(self.commands.items()):
            if name not in self.verbs:
                rows.append((name, command.get_short_help_str(80)))
        with formatter.section("Verbs"):
            formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a verb; a wrong one names the valid ones."""
        name = args[0]
        if not name.startswith("-") and name not in self.list_commands(ctx):
            valid = ", ".join(self.list_commands(ctx))
            raise click.UsageError(f"no verb {name!r}; valid are: {valid}", ctx)
        return super().resolve_command(ctx, args)


class Verb(click.Command):
    """A command with an example, whose settings may come from the TOML file."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Put the file's settings below flags and environment."""
        from cluster.settings import SETTINGS_BY_NAME

        state = parent.find_object(State) if parent is not None else None
        if state is not None and any(p.name in SETTINGS_BY_NAME for p in self.params):
            extra.setdefault("default_map", state.file_settings())
        return super().make_context(info_name, args, parent, **extra)


def verb(name: str, *, example: str) -> Callable[[Callable[..., Any]], Verb]:
    """Declare a verb; `example` stands at the end of its help."""

    def declare(function: Callable[..., Any]) -> Verb:
        epilog = "\b\nExample:\n" + "\n".join(f"  {line}" for line in example.splitlines())
        make = click.command(name, cls=Verb, epilog=epilog, context_settings=CONTEXT)
        return make(_debug_option(function))

    return declare


def _debug_option(function: _Function) -> _Function:
    def remember(ctx: click.Context, _: click.Parameter, value: bool) -> None:
        if value and (state := ctx.find_object(State)) is not None:
            state.debug = True

    return click.option(
        "--debug",
        is_flag=True,
        expose_value=False,
        callback=remember,
        help="Print the traceback of an error.",
    )(function)


def setting_option(name: str, *short: str) -> Callable[[_Function], _Function]:
    """Declare an option that is a setting (`cluster.settings`)."""
    from cluster.settings import SETTINGS_BY_NAME

    setting = SETTINGS_BY_NAME[name]
    kind: Any = click.Choice(setting.choices) if setting.choices else setting.kind
    return click.option(
        *short,
        setting.flag,
        name,
        type=kind,
        metavar=setting.metavar or None,
        envvar=setting.variable,
        help=f"{setting.help} [{setting.default}]",
    )


def cluster_option(function: _Function) -> _Function:
    """Add `--cluster NAME|DIR`."""
    return setting_option("cluster", "-c")(function)


def json_option(function: _Function) -> _Function:
    """Add `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(
        function
    )


def attach(cluster: str | None) -> LocalCluster:
    """Connect to the cluster that `--cluster` names; closed when the verb ends."""
    from cluster.local import LocalCluster

    found = LocalCluster.attach(cluster)
    click.get_current_context().call_on_close(found.close)
    return found


def print_json(document: Mapping[str, Any]) -> None:
    """Print one document on stdout; bytes that are no text appear as base64 strings."""
    click.echo(json.dumps(document, default=_plain, ensure_ascii=False))


def _plain(value: object) -> str:
    import base64

    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value)


def note(text: str) -> None:
    """Tell a person something: on stderr, as everything that is not data."""
    with contextlib.suppress(OSError):  # the exit code speaks where nothing else can
        click.echo(text, err=True)


def run(group: click.Command, arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code; no traceback without `--debug`."""
    state = State()
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = group.main(args=arguments, prog_name="raftdeck", standalone_mode=False, obj=state)
    except (click.Abort, KeyboardInterrupt):
        return int(Exit.INTERRUPTED)
    except click.ClickException as error:
        error.show()
        return int(Exit.USAGE)
    except Exception as error:  # the edge: everything becomes an exit code here
        return _report(error, state)
    finally:
        _settle(sys.stdout)
        _settle(sys.stderr)
        signal.signal(signal.SIGTERM, before)
    return code if isinstance(code, int) else int(Exit.HELD)  # an int: `ctx.exit(code)`


def _settle(stream: TextIO | None) -> None:
    """Send what still waits, or drop it where nobody takes it: a window that was closed, say.

    None: it was closed from the start.
    """
    if stream is None:
        return
    try:
        stream.flush()
    except (OSError, ValueError):
        from wal.console import drop_output

        drop_output(stream)


def _report(error: Exception, state: State) -> int:
    if state.debug:
        traceback.print_exception(error)
    if isinstance(error, CommandError):
        note(f"Error: {error}")
        return int(error.exit_code)
    if isinstance(error, OSError) and _is_of_output(error):
        from wal.console import drop_output

        drop_output()
        note(f"Error: the output could not be written: {error.strerror}")
        return int(Exit.UNFIT)
    where = "" if state.debug else "; run it again with --debug for the traceback"
    note(f"Error: internal: {type(error).__name__}: {error}{where}")
    return int(Exit.UNFIT)


def _is_of_output(error: OSError) -> bool:
    """Tell whether the error came from printing: from `click.echo` itself."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return last.name == "echo" and Path(last.filename).parent.name == "click"


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
