"""`raftdeck node VERB SELECTOR`, made from `cluster.actions`, and `raftdeck leader show`."""

from __future__ import annotations

import click

from cluster.actions import ACTIONS, ACTIONS_BY_NAME, Action
from cluster.api import ActionResult
from cluster.cli_support import (
    CONTEXT,
    LazyGroup,
    Verb,
    attach,
    cluster_option,
    json_option,
    note,
    print_json,
    verb,
)
from cluster.exits import CommandError, Exit
from cluster.frames import ClusterFrame
from cluster.selectors import describe_selectors
from cluster.tables import leaders, leaders_table

__all__ = ["explain", "leader", "node", "print_result"]


@click.group(
    "node",
    cls=LazyGroup,
    verbs={},
    context_settings=CONTEXT,
    epilog="\b\nExample:\n  raftdeck node kill leader",
)
def node() -> None:
    """Do something to nodes, named by a selector."""


def _command(action: Action) -> Verb:
    """Make the verb of an action."""

    @click.argument("selector")
    @click.option("--seed", type=int, metavar="N", help="Seed of the selector `random`.")
    @cluster_option
    @json_option
    def act(selector: str, seed: int | None, cluster: str | None, as_json: bool) -> None:
        print_result(action.run(attach(cluster), selector, seed), as_json=as_json)

    act.__doc__ = explain(action)
    return verb(action.name, example=action.example)(act)


def explain(action: Action) -> str:
    """Return the help of an action's verb."""
    undoing = ACTIONS_BY_NAME.get(action.undone_by or "")
    undo = f" Undone by: {undoing.word}." if undoing else ""
    selectors = describe_selectors().replace("\n", "\n  ")
    return f"{action.help}{undo}\n\n\b\nSELECTOR, or several by commas:\n  {selectors}"


def print_result(result: ActionResult, *, as_json: bool) -> None:
    """Print what a verb did: the states on stdout, the rest on stderr."""
    if as_json:
        print_json(result.encode())
    else:
        states = ", ".join(f"{name} {state}" for name, state in result.states.items())
        click.echo(f"{result.action}: {states}")
    for text in result.notes:
        note(text)


for _action in ACTIONS:
    if _action.target == "nodes":
        node.add_command(_command(_action))


@click.group(
    "leader",
    cls=LazyGroup,
    verbs={},
    context_settings=CONTEXT,
    epilog="\b\nExample:\n  raftdeck leader show",
)
def leader() -> None:
    """Ask about leaders."""


@verb("show", example="raftdeck leader show --group 7 --json")
@cluster_option
@click.option("-g", "--group", type=int, default=0, metavar="N", help="Raft group. [0]")
@click.option("--all", "every", is_flag=True, help="All groups, a line each.")
@json_option
def show(cluster: str | None, group: int, every: bool, as_json: bool) -> None:
    """Show who leads a group, and in which term; with --all, of every group."""
    frame = attach(cluster).frame()
    if every:
        _show_all(frame, as_json)
        return
    if not 0 <= group < frame.groups:
        raise CommandError(Exit.USAGE, f"no group {group}; there are 0 to {frame.groups - 1}")
    found = frame.leader(group)
    if found is None:
        raise CommandError(
            Exit.NO_QUORUM,
            f"no node leads group {group}; wait with: raftdeck status --wait leader=1",
        )
    state = frame.node(found).group(group)
    assert state is not None
    if as_json:
        document = {"schema": "raftdeck.leader/1", "group": group, "leader": found}
        print_json(document | {"term": state.term, "commit": state.commit})
    else:
        click.echo(f"n{found}")
        note(f"term {state.term}, commit {state.commit}")


def _show_all(frame: ClusterFrame, as_json: bool) -> None:
    """Print who leads each group; NO_QUORUM, after all was printed, if some have no leader."""
    led = [frame.leader(group) for group in range(frame.groups)]
    counts = {f"n{part.node}": led.count(part.node) for part in frame.nodes}
    if as_json:
        print_json({"schema": "raftdeck.leaders/1", "groups": leaders(frame), "counts": counts})
    else:
        click.echo(leaders_table(frame))
        note("leads: " + ", ".join(f"{name} {count}" for name, count in counts.items()))
    if missing := led.count(None):
        raise CommandError(
            Exit.NO_QUORUM,
            f"{missing} of {frame.groups} groups have no leader;"
            " a group needs most of its nodes: raftdeck status",
        )


leader.add_command(show)
