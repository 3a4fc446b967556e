"""What the palette offers for what was typed: verbs on a selector, commands, a group, a time."""

from __future__ import annotations

from collections.abc import Sequence

from dashboard.keys import Key
from dashboard.presenter.events import clock_ms
from dashboard.presenter.overlay import Choice

__all__ = ["entries_for"]


def entries_for(
    typed: str, choices: Sequence[Choice], keys: Sequence[Key], target: str
) -> list[tuple[str, str]]:
    """Return (name, explanation) of everything that fits; verbs go to `target` unless one is typed."""
    found: list[tuple[str, str]] = []
    words = typed.lower().split()
    if len(words) == 2 and words[0] == "group" and words[1].isdigit():
        found.append((f"group {words[1]}", "show this group"))
    if len(words) == 2 and words[0] == "seek" and clock_ms(words[1]) is not None:
        found.append((f"seek {words[1]}", "to this time of the event list's clock"))
    if len(words) > 1 and words[0] == "mark":
        found.append((typed.strip(), "put this mark here"))
    selector = words[1] if len(words) > 1 else target
    found += [
        (f"{choice.name} {selector}", choice.effect)
        for choice in choices
        if not words or choice.name.startswith(words[0])
    ]
    for key in keys:
        name = key.command.replace("_", " ")
        if all(word in f"{name} {key.help}" for word in words):
            found.append((name, f"{key.label}: {key.help}"))
    return found
