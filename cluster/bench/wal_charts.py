"""`bench wal` for a person: tables of bars, on a terminal and as SVG, both drawn by rich.

Bars are drawn on a logarithmic scale: from the naive log to all optimisations together it is two
orders of magnitude, on which a linear bar shows two lines and nothing between.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.bar import Bar
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from cluster.bench.report import BenchReport

__all__ = ["drawn", "save_svg"]

WIDTH: Final = 110
_BAR_WIDTH: Final = 26
_LEGEND: Final = "Bars are logarithmic, but for ours beside bare. × first: over the first row."
Row = Mapping[str, Any]

_SVG: Final = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, monospace;
  font-size: {char_height}px; line-height: {line_height}px; }}
{styles}
</style>
<rect width="100%" height="100%" fill="#ffffff"/>
<defs><clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/></clipPath>
{lines}</defs>
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">{matrix}</g>
</g>
</svg>
"""
"""rich's own frame asks a network for a font; this one takes what the reader's machine has."""


def drawn(report: BenchReport, *, colour: bool) -> str:
    """Return the charts as text for a terminal of 110 columns, without colours or with."""
    console = Console(
        file=io.StringIO(), width=WIDTH, force_terminal=colour, no_color=not colour,
        color_system="standard" if colour else None, legacy_windows=False,
    )  # fmt: skip
    with console.capture() as text:
        console.print(_charts(report.rows))
    return "\n".join(line.rstrip() for line in text.get().splitlines())


def save_svg(report: BenchReport, path: Path) -> None:
    """Write the charts as one SVG that needs nothing from a network. OSError as the disk says."""
    from rich.terminal_theme import DEFAULT_TERMINAL_THEME

    console = Console(
        file=io.StringIO(), width=WIDTH, record=True, force_terminal=True, legacy_windows=False,
        color_system="truecolor",
    )  # fmt: skip
    console.print(_charts(report.rows))
    title = "raftdeck bench wal"
    text = console.export_svg(
        title=title, theme=DEFAULT_TERMINAL_THEME, code_format=_SVG, unique_id="wal"
    )
    path.write_text(text, encoding="utf-8")


def _charts(rows: Sequence[Row]) -> RenderableType:
    def of(section: str) -> list[Row]:
        return [row for row in rows if row["section"] == section]

    parts: list[RenderableType] = [
        _speeds("Seed 3's case: 1,000 records of 1 KiB, batches of 100", of("case")),
        _claims(of("seed 3")),
        _speeds("Each optimisation alone, and together", of("policies")),
        _speeds("Record and batch sizes", of("shapes"), shapes=True),
        _against("Beside the raw disk: blocks, each synced", of("raw"), ("ours", "bare"), "per_s"),
        _prepared(of("prepare")),
        _seed4(of("seed 4")),
        _against("Recovery, MB/s", of("recovery"), ("ours", "bare"), "mb_per_s"),
    ]
    if of("peers"):
        parts.append(_peers(of("peers")))
    spaced = [each for part in parts for each in (part, Text(""))]
    return Group(*spaced, Text(_LEGEND, style="dim"))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, show_edge=False)
    for place, column in enumerate(columns):
        is_text = place == 0 or not column
        table.add_column(column, justify="left" if is_text else "right", no_wrap=True)
    return table


def _bars(values: Sequence[float]) -> list[Bar]:
    """Return bars on one logarithmic scale, from a third of the smallest to the largest."""
    known = [value for value in values if value > 0] or [1.0]
    low, high = math.log(min(known) / 3), math.log(max(known))
    span = max(high - low, 1e-9)
    shares = [max(0.0, (math.log(value) - low) / span) if value > 0 else 0.0 for value in values]
    return [Bar(1.0, 0.0, share, width=_BAR_WIDTH, color="green") for share in shares]


def _speeds(title: str, rows: Sequence[Row], *, shapes: bool = False) -> Table:
    table = _table(title, "", "records/s", "", "× first", "writes", "fsyncs", "wait p50 µs")
    first = rows[0]["ops_per_s"] if rows else 1.0
    for row, bar in zip(rows, _bars([row["ops_per_s"] for row in rows]), strict=True):
        name = row["case"]
        if shapes:
            name = f"{row['record_bytes']:,} B × {row['batch']}, {name}"
        if row.get("missing"):
            name += f" (no {', '.join(row['missing'])})"
        wait = row.get("wait_p50_us")
        table.add_row(
            name, f"{row['ops_per_s']:,.0f}", bar, f"{row['ops_per_s'] / first:,.1f}",
            _count(row.get("writes")), _count(row.get("fsyncs")), f"{wait:,.0f}" if wait else "–",
        )  # fmt: skip
    return table


def _peers(rows: Sequence[Row]) -> Table:
    table = _table("Peers, each commit synced", "", "records/s", "", "ours over it")
    ours = {row["batch"]: row["ops_per_s"] for row in rows if row["case"] == "ours"}
    for row, bar in zip(rows, _bars([row["ops_per_s"] for row in rows]), strict=True):
        name = f"{row['record_bytes']:,} B × {row['batch']}, {row['case']}"
        ratio = ours[row["batch"]] / row["ops_per_s"] if row["ops_per_s"] else 0.0
        table.add_row(name, f"{row['ops_per_s']:,.0f}", bar, f"{ratio:.1f}")
    return table


def _claims(rows: Sequence[Row]) -> Table:
    table = _table(
        "Seed 3's table: claimed, and measured here", "", "naive", "optimised", "ratio",
        "naive here", "optimised here", "ratio here",
    )  # fmt: skip
    for row in rows:
        sides = [
            row[side][name]
            for side in ("claimed", "measured")
            for name in ("naive", "optimised", "ratio")
        ]
        table.add_row(
            row["case"], *(f"{value:,.4g}" if value < 1 else f"{value:,.1f}" for value in sides)
        )
    return table


def _seed4(rows: Sequence[Row]) -> Table:
    table = _table(
        "Seed 4's table: ms for 1,000 records of 1,000 B, and over its line \"flush, no sync\"", "",
        "claimed ms", "over flush", "measured ms", "over flush", "",
    )  # fmt: skip
    for row, bar in zip(rows, _bars([row["measured_ms"] for row in rows]), strict=True):
        table.add_row(
            row["case"], f"{row['claimed_ms']:,.0f}", f"{row['claimed_vs_flush']:,.2f}",
            f"{row['measured_ms']:,.1f}", f"{row['measured_vs_flush']:,.2f}", bar,
        )  # fmt: skip
    table.caption = (
        "Its text says that fsync costs 35 % more; its own lines 2 and 3 say 30 times as much."
    )
    table.caption_justify = "left"
    return table


def _against(title: str, rows: Sequence[Row], sides: Iterable[str], figure: str) -> Table:
    names = tuple(sides)
    table = _table(title, "", *names, "ratio", "")
    for row in rows:
        values = [row[f"{name}_{figure}"] for name in names]
        ratio = values[0] / values[1] if values[1] else 0.0
        bar = Bar(1.0, 0.0, min(1.0, ratio), width=_BAR_WIDTH, color="green")
        table.add_row(row["case"], *(f"{value:,.0f}" for value in values), f"{ratio:.2f}", bar)
    return table


def _prepared(rows: Sequence[Row]) -> Table:
    table = _table(
        "Blocks prepared in four ways, writes and syncs per second",
        "",
        "per second",
        "",
        "× append",
    )
    for row in rows:
        names = [name for name in ("append", "fallocate", "zero_fill", "recycle") if name in row]
        for name, bar in zip(names, _bars([row[name] for name in names]), strict=True):
            table.add_row(
                f"{row['case']}, {name}",
                f"{row[name]:,.0f}",
                bar,
                f"{row[name] / row['append']:.2f}",
            )
    return table


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"
