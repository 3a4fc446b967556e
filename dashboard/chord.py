"""The chord: from the registry of actions to keys, effects, and what would be left."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.actions import Action
from cluster.frames import ClusterFrame, NodeFrame
from cluster.operations import NODE_VERBS
from dashboard.presenter.overlay import Choice, ChordView
from dashboard.presenter.view import quorum, standing_of

__all__ = ["action_for", "choices_for", "chord_view", "keys_of"]

ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"


def keys_of(actions: Sequence[Action]) -> dict[str, str]:
    """Give every verb its second key: its own, else the first letter of its name that is free."""
    taken = {action.key for action in actions if action.key}
    keys: dict[str, str] = {}
    for action in actions:
        key = action.key
        if not key:
            letters = [sign for sign in action.name.lower() if sign in ALPHABET]
            key = next(sign for sign in (*letters, *ALPHABET) if sign not in taken)
            taken.add(key)
        keys[action.name] = key
    return keys


def _refusal(action: Action, part: NodeFrame | None) -> str:
    """Say why a verb does not apply to a node now; empty if it does, or if nobody can tell."""
    verb = NODE_VERBS.get(action.name)
    if part is None or verb is None or part.process.state in verb.applies_to:
        return ""
    return f"n{part.node} is {part.process.state.value}"


def choices_for(actions: Sequence[Action], part: NodeFrame | None = None) -> tuple[Choice, ...]:
    """Return every verb as a choice, judged against a node if one is given."""
    keys = keys_of(actions)
    found: list[Choice] = []
    for action in actions:
        key, refusal = keys[action.name], _refusal(action, part)
        other = next((c.name for c in found if c.key == key and not c.refused), None)
        if part is not None and other is not None and not refusal:
            refusal = f"{key} is {other}"
        effect = action.effect or action.help
        found.append(Choice(key, action.name, effect, action.undone_by, action.asks, refusal))
    return tuple(found)


def action_for(actions: Sequence[Action], key: str, part: NodeFrame) -> Action | None:
    """Return the verb of a second key that applies to a node now; None if there is none."""
    keys = keys_of(actions)
    for action in actions:
        if keys[action.name] == key and not _refusal(action, part):
            return action
    return None


def chord_view(frame: ClusterFrame, node: int, group: int, actions: Sequence[Action]) -> ChordView:
    """Return what the open chord shows for a target."""
    part = frame.node(node)
    standing = standing_of(frame, part, group)
    pid = f" · pid {part.process.pid}" if part.process.pid else ""
    state = part.group(group)
    term = f" term {state.term}" if state is not None and part.fresh else ""
    target = f"n{node} {standing}{term}{pid}"
    return ChordView(target, _outlook(frame, node, group), choices_for(actions, part))


def _outlook(frame: ClusterFrame, node: int, group: int) -> str:
    """Say what a group could still do without this node."""
    needed, present = quorum(frame, group)
    counted = frame.healthy(group) or tuple(part.node for part in frame.nodes if part.fresh)
    if node not in counted:
        return f"n{node} takes no part now: {present} of {len(frame.nodes)} do, {needed} are needed"
    left = present - 1
    words = f"without n{node}: {left} of {len(frame.nodes)} take part, {needed} are needed"
    if left < needed:
        return f"{words}: NO QUORUM"
    falls = ", and the others elect a new leader" if frame.leader(group) == node else ""
    return f"{words}: margin {left - needed}{falls}"
