"""Draws why a history is not linearizable: one HTML page, no script, no network, light and dark.

Time runs to the right, one lane per process; a bar is an operation from its invocation to its
completion, an open end means that nobody was answered. The numbers are the longest order that
explains its answers; red is what it cannot explain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from cluster.check.history import NEVER, Operation, Status
from cluster.check.linearizable import Counterexample

__all__ = ["draw"]

_BEFORE_MAX: Final = 14
_AFTER_MAX: Final = 4
"""Placed operations in front of the failure, and operations behind it, that are drawn."""
_WIDTH: Final = 1150
_COLUMN_MIN: Final = 20
_COLUMN_MAX: Final = 56
"""Columns share the width of the page, within these bounds; pixels."""
_LETTER: Final = 7.3
_LANE: Final = 46
_LEFT: Final = 92
_TOP: Final = 14
_LABEL_MAX: Final = 40

_STYLE: Final = """
:root { color-scheme: light dark; --back: #fbfbfa; --ink: #1d2023; --soft: #6a7178; --line: #d9dcdf;
  --card: #ffffff; --placed: #d5e8d9; --placed-edge: #3f8f57; --other: #e9ebee; --other-edge: #9aa1a8;
  --bad: #fbd9d5; --bad-edge: #c23b2c; }
@media (prefers-color-scheme: dark) { :root { --back: #15181b; --ink: #e6e8ea; --soft: #9aa3ab;
  --line: #2c3237; --card: #1c2024; --placed: #1f3d2a; --placed-edge: #5fbf7d; --other: #2a2f34;
  --other-edge: #78818a; --bad: #4a211d; --bad-edge: #ff7b6b; } }
body { margin: 2rem auto; max-width: 75rem; padding: 0 1.25rem; background: var(--back);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.35rem; margin: 0 0 .25rem; } p { margin: .25rem 0 1rem; }
.soft { color: var(--soft); } .bad { color: var(--bad-edge); font-weight: 600; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  overflow-x: auto; padding: .75rem; margin: 0 0 1.25rem; }
svg { display: block; font: 12px ui-monospace, monospace; }
svg text { fill: var(--ink); } svg .soft { fill: var(--soft); }
.lane { stroke: var(--line); } .cut { stroke: var(--bad-edge); stroke-dasharray: 4 4; }
.bar { stroke-width: 1.5; fill: var(--other); stroke: var(--other-edge); }
.bar.placed { fill: var(--placed); stroke: var(--placed-edge); }
.bar.bad { fill: var(--bad); stroke: var(--bad-edge); stroke-width: 2; }
.open { stroke-dasharray: 5 3; }
.order { font-weight: 700; }
.behind { paint-order: stroke; stroke: var(--card); stroke-width: 5px; }
.key { display: inline-block; width: .9em; height: .9em; border: 1.5px solid; border-radius: 3px;
  vertical-align: -.1em; margin: 0 .35em 0 1em; }
table { border-collapse: collapse; font: 13px ui-monospace, monospace; }
td, th { text-align: left; padding: .15rem 1rem .15rem 0; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 500; }
"""


@dataclass(frozen=True, slots=True)
class _Bar:
    """One operation in the picture. Columns count the drawn events."""

    operation: Operation
    lane: int
    start: int
    end: int
    is_open: bool
    place: int | None
    """Its number in the order; None: not in it."""
    is_bad: bool


def draw(example: Counterexample, name: str) -> str:
    """Return the page for a counterexample; `name` is the history's."""
    places = _places(example)
    shown = _shown(example, places)
    bars, lanes, columns = _bars(shown, example, places)
    title = f"{name}: not linearizable"
    where = "" if example.key is None else f"key {example.key!r}, "
    hidden = len(example.operations) - len(shown)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>{_STYLE}</style></head><body>
<h1>{escape(title)}</h1>
<p>{escape(where)}{len(shown)} of {len(example.operations)} operations around the failure
{f"({hidden} more are not drawn)" if hidden else ""}<br>
<span class="bad">{escape(_sentence(example.reason))}</span></p>
<p class="soft"><span class="key" style="background:var(--placed);border-color:var(--placed-edge)">
</span>in the longest order, by number<span class="key"
style="background:var(--bad);border-color:var(--bad-edge)"></span>cannot follow<span class="key"
style="background:var(--other);border-color:var(--other-edge)"></span>not reached, or left out; a
dashed end: nobody was answered. Time runs to the right, one column per event.</p>
<div class="card">{_svg(bars, lanes, columns)}</div>
{_table(example)}
</body></html>
"""


def _places(example: Counterexample) -> dict[int, int]:
    """Return the number in the order of each placed operation, by the operation's own number."""
    prefix = example.stuck.prefix if example.stuck else ()
    return {placed.operation.number: place for place, placed in enumerate(prefix, 1)}


def _shown(example: Counterexample, places: dict[int, int]) -> list[Operation]:
    """Choose what is drawn: what cannot follow, what was placed last, and a little of the rest."""
    bad = {op.number for op in example.culprits}
    first = max(0, len(places) - _BEFORE_MAX)
    near = [op for op in example.operations if places.get(op.number, 0) > first]
    chosen = {op.number for op in near} | bad
    last = max((op.call for op in example.operations if op.number in chosen), default=0)
    after = [op for op in example.operations if op.call > last and op.status is not Status.FAIL]
    chosen |= {op.number for op in after[:_AFTER_MAX]}
    return [op for op in example.operations if op.number in chosen]


def _bars(
    shown: Sequence[Operation], example: Counterexample, places: dict[int, int]
) -> tuple[list[_Bar], list[str], int]:
    """Lay the operations out: lanes by process, columns by event."""
    ends = [op.ret for op in shown if op.ret != NEVER]
    columns = {rank: n for n, rank in enumerate(sorted({op.call for op in shown} | set(ends)))}
    lanes: dict[object, int] = {}
    blocking = {op.number for op in example.culprits[: 1 if example.stuck else None]}
    bars = []
    for op in shown:
        lane = lanes.setdefault(op.process, len(lanes))
        is_open = op.ret == NEVER
        end = len(columns) if is_open else columns[op.ret]
        place = places.get(op.number)
        bars.append(_Bar(op, lane, columns[op.call], end, is_open, place, op.number in blocking))
    return bars, [str(process) for process in lanes], len(columns) + 1


def _svg(bars: Sequence[_Bar], lanes: Sequence[str], columns: int) -> str:
    column = min(_COLUMN_MAX, max(_COLUMN_MIN, (_WIDTH - _LEFT) // columns))
    width, height = _LEFT + columns * column + 20, _TOP * 2 + len(lanes) * _LANE
    parts = [f'<svg width="{width}" height="{height}" role="img" aria-label="operations in time">']
    for lane, process in enumerate(lanes):
        y = _TOP + lane * _LANE + _LANE / 2
        parts.append(f'<line class="lane" x1="{_LEFT}" x2="{width}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="soft" x="4" y="{y + 4}">process {escape(process[:9])}</text>')
    for number, bar in enumerate(bars):
        following = [other.start for other in bars[number + 1 :] if other.lane == bar.lane]
        room = ((following[0] if following else columns) - bar.start) * column
        parts.append(_bar(bar, column, room))
    parts.append("</svg>")
    return "\n".join(parts)


def _bar(bar: _Bar, column: int, space: int) -> str:
    """Return one bar; its words may run on behind it, up to the next bar in its lane (`space`)."""
    x, y = _LEFT + bar.start * column + 2, _TOP + bar.lane * _LANE + 8
    width = max(column - 4, (bar.end - bar.start) * column - 4)
    kind = " bad" if bar.is_bad else " placed" if bar.place else ""
    kind += " open" if bar.is_open else ""
    label = _label(bar.operation)
    number = f"{bar.place} " if bar.place else ""
    fits = (len(number) + len(label)) * _LETTER + 10 <= width
    room = int((space - 8 - (0 if fits else width)) / _LETTER)
    short = label if fits or len(label) <= room else label[: max(0, room - 1)] + "…"
    words = x + (6 + len(number) * _LETTER if fits else width + 6)
    title = escape(f"{number}{bar.operation}")
    return (
        f"<g><title>{title}</title>"
        f'<rect class="bar{kind}" x="{x}" y="{y}" width="{width}" height="{_LANE - 16}" rx="5"/>'
        f'<text class="order" x="{x + 6}" y="{y + 19}">{number.strip()}</text>'
        f'<text class="{"inside" if fits else "behind"}" x="{words:.0f}" y="{y + 19}">'
        f"{escape(short)}</text></g>"
    )


def _label(operation: Operation) -> str:
    """Return what is written on a bar: the shortest that says what was done and seen."""
    value = operation.argument if operation.argument is not None else operation.result
    text = "nil" if value is None else value if isinstance(value, str) else repr(value)
    arrow = " → " if operation.argument is None and operation.status is Status.OK else " "
    text = text or "''"
    if len(text) > _LABEL_MAX:
        text = f"…{text[-_LABEL_MAX:]}"
    return f"{operation.f}{arrow if value is not None or arrow == ' → ' else ''}{text}".strip()


def _table(example: Counterexample) -> str:
    """Return the end of the order, state by state, and what cannot follow."""
    if example.stuck is None:
        rows = "".join(f"<tr><td>{escape(str(op))}</td></tr>" for op in example.culprits)
        return f'<div class="card"><table>{rows}</table></div>'
    prefix = example.stuck.prefix
    first = max(0, len(prefix) - _BEFORE_MAX)
    rows = "".join(
        f"<tr><td>{place}</td><td>{escape(str(placed.operation))}</td>"
        f"<td>{escape(placed.state)}</td></tr>"
        for place, placed in enumerate(prefix[first:], first + 1)
    )
    rows += "".join(
        f'<tr><td class="bad">✗</td><td>{escape(str(op))}</td><td>{escape(why)}</td></tr>'
        for op, why in example.stuck.next
    )
    head = "<tr><th>#</th><th>operation</th><th>state after it</th></tr>"
    return f'<div class="card"><table>{head}{rows}</table></div>'


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."
