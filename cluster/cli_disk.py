"""`raftdeck disk FAULT SELECTOR`: faults of the disks of live nodes.

Made from `cluster.actions`; a fault's options come from `node.faults.FIELDS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import click

from cluster.actions import ACTIONS
from cluster.cli_nodes import explain, print_result
from cluster.cli_support import (
    CONTEXT,
    LazyGroup,
    Verb,
    attach,
    cluster_option,
    json_option,
    verb,
)
from cluster.selectors import describe_selectors
from node.faults import FIELDS
from wal.faults import OPERATIONS, POINTS

__all__ = ["Duration", "disk"]

_UNITS: Final = {"ms": 1, "s": 1_000, "": 1_000, "m": 60_000, "h": 3_600_000}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|)")


class Duration(click.ParamType[int]):
    """A time as a person writes it (`2s`, `500ms`, `1.5`: seconds), in whole ms."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return ms; a usage error for anything else."""
        if isinstance(value, int):
            return value
        match = _DURATION.fullmatch(str(value).strip())
        if match is None:
            self.fail(f"{value!r} is no time; write it as 500ms, 2s or 1m", param, ctx)
        return round(float(match[1]) * _UNITS[match[2]])


_OPTIONS: Final[dict[str, Callable[[Any], Any]]] = {
    "for_ms": click.option("--for", "for_ms", type=Duration(), help="How long it stands. [10s]"),
    "on": click.option("--on", type=click.Choice(OPERATIONS), help="The operation. [sync]"),
    "delay_ms": click.option("--by", "delay_ms", type=Duration(), help="How much longer. [100ms]"),
    "times": click.option(
        "--times", type=int, metavar="N", help="How often at most; 0: no limit. [0; fail, short, "
        "at: 1 without --for]",
    ),
    "odds": click.option(
        "--odds", type=int, metavar="PERCENT", help="Of the operations, drawn by --seed. [100]"
    ),
    "quota": click.option(
        "--bytes", "quota", type=int, metavar="N", help="By which files may still grow. [0]"
    ),
    "segment": click.option("--segment", type=int, metavar="N", help="Its number. [the newest]"),
    "offset": click.option("--offset", type=int, metavar="N", help="The byte. [drawn]"),
    "bit": click.option("--bit", type=int, metavar="N", help="0 to 7. [drawn]"),
}  # fmt: skip
"""Options by the field that they fill."""


@click.group(
    "disk",
    cls=LazyGroup,
    verbs={},
    context_settings=CONTEXT,
    epilog="\b\nExample:\n  raftdeck disk stall leader --for 2s\n  raftdeck disk powercut all",
)
def disk() -> None:
    """Break the disks of nodes, named by a selector; docs/durability.md tells what each does."""


def _command(fault: str, word: str, text: str, example: str) -> Verb:
    """Make the verb of a fault."""

    def act(
        selector: str, seed: int | None, cluster: str | None, as_json: bool, **given: Any
    ) -> None:
        options = {name: value for name, value in given.items() if value is not None}
        if seed is not None and "seed" in FIELDS[fault]:
            options["seed"] = seed
        result = attach(cluster).disk(fault, selector, seed, options)
        print_result(result, as_json=as_json)

    act.__doc__ = text
    function: Any = json_option(cluster_option(act))
    function = click.option("--seed", type=int, metavar="N", help="Seed of what is drawn.")(
        function
    )
    for name in reversed(FIELDS[fault]):
        if name in _OPTIONS:
            function = _OPTIONS[name](function)
    function = click.argument("selector")(function)
    if fault == "at":
        function = click.argument("deed")(click.argument("point")(function))
        function = _point_first(function)
    return verb(word, example=example)(function)


def _point_first(function: Any) -> Any:
    """Let a point and what happens there follow the selector."""
    arguments = [p for p in function.__click_params__ if isinstance(p, click.Argument)]
    others = [p for p in function.__click_params__ if not isinstance(p, click.Argument)]
    order = {"deed": 0, "point": 1, "selector": 2}  # click reads the list from its end
    arguments.sort(key=lambda argument: order[str(argument.name)])
    function.__click_params__ = [*others, *arguments]
    return function


for _action in ACTIONS:
    if _action.target == "disks":
        disk.add_command(_command(_action.word, _action.word, explain(_action), _action.example))

_SELECTORS: Final = describe_selectors().replace("\n", "\n  ")
_POINTS: Final = "\n  ".join(
    f"{point}before, …after" for point in sorted({p.rpartition(".")[0] + "." for p in POINTS})
)
disk.add_command(
    _command(
        "at",
        "at",
        "Kill, fail or stall once, at a named point of the write path.\n\nDEED is kill, error or stall."
        f"\n\n\b\nPOINT is one of:\n  {_POINTS}"
        f"\n\n\b\nSELECTOR, or several by commas:\n  {_SELECTORS}",
        "raftdeck disk at leader wal.sync.before kill",
    )
)
disk.add_command(
    _command(
        "show",
        "show",
        "Show each disk fault: how it stands, how often it bit, and where."
        f"\n\n\b\nSELECTOR, or several by commas:\n  {_SELECTORS}",
        "raftdeck disk show all",
    )
)
