"""The whole screen: which pane stands where at which size, and all of it as rows of text.

    header    2 rows
    nodes     a row per node
    logs      links            side by side from 100 columns; below, one of four (tab)
    charts
    events
    caption   1 row with a tour or a notice
    timeline  1 row
    footer    1 row

Everything is a function of (picture, view, size); the app paints panes, `compose` joins them into
one screen for tests, recordings and plain output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from dashboard.keys import Key
from dashboard.presenter.charts import chart_rows
from dashboard.presenter.events import event_rows
from dashboard.presenter.footer import caption_row, footer_row, timeline_row
from dashboard.presenter.groups import group_page
from dashboard.presenter.header import header_rows
from dashboard.presenter.links import link_page, link_rows
from dashboard.presenter.logmap import log_rows
from dashboard.presenter.microscope import WalSight, microscope_page
from dashboard.presenter.node_detail import Dossier, node_page
from dashboard.presenter.nodes import brief_rows, node_rows
from dashboard.presenter.overlay import (
    Choice,
    ChordView,
    PaletteView,
    Question,
    chord_rows,
    help_rows,
    palette_rows,
    question_rows,
)
from dashboard.presenter.text import Row, ascii_row, cut, fit, plain, width_of
from dashboard.presenter.view import TABS, Picture, Size, View

__all__ = ["Beside", "Place", "compose", "layout", "overlay_rows", "pane_rows", "screen_text"]

WIDE: Final = 100
"""From this width on, panes stand side by side and in boxes."""
BRIEF_WIDTH: Final = 60
BRIEF_HEIGHT: Final = 14
"""Below either, only the header and every node's shape are shown; never "terminal too small"."""
EVENTS_MIN: Final = 4
CHARTS_MIN: Final = 5
CHARTS_FULL: Final = 12
"""Lower ones are no better to read with more room."""


class Place(NamedTuple):
    """Where a pane stands."""

    x: int
    y: int
    width: int
    height: int

    @property
    def size(self) -> Size:
        """Its size."""
        return Size(self.width, self.height)


class Beside(NamedTuple):
    """What a screen needs besides frames: keys that hold, verbs, what was read, what lies above."""

    keys: Sequence[Key] = ()
    help_keys: Sequence[Key] = ()
    choices: Sequence[Choice] = ()
    dossier: Dossier | None = None
    sight: WalSight | None = None
    chord: ChordView | None = None
    question: Question | None = None
    palette: PaletteView | None = None


def layout(view: View, nodes: int, size: Size) -> dict[str, Place]:
    """Say where every pane stands on a screen of `size`; panes never overlap and fill it."""
    width, height = size
    places: dict[str, Place] = {}
    header = min(2, height)
    places["header"] = Place(0, 0, width, header)
    bottom = height
    for name in ("footer", "timeline", "caption"):
        wanted = name != "caption" or bool(view.caption or view.notice or view.demo)
        if wanted and bottom - 1 > header + 2:
            bottom -= 1
            places[name] = Place(0, bottom, width, 1)
    body = Place(0, header, width, bottom - header)
    if view.page != "main":
        places["page"] = body
        return places
    if width < BRIEF_WIDTH or height < BRIEF_HEIGHT:
        places["brief"] = body
        return places
    if view.zoomed:
        places[TABS[view.tab]] = body
        return places
    wide = width >= WIDE
    table = min(nodes + (3 if wide else 2), max(3, body.height - (0 if body.height < 9 else 6)))
    table = min(table, body.height)
    places["nodes"] = Place(0, body.y, width, table)
    rest = Place(0, body.y + table, width, body.height - table)
    if rest.height <= 0:
        return places
    places.update(_lower(view, nodes, rest, wide=wide))
    return places


def _lower(view: View, nodes: int, rest: Place, *, wide: bool) -> dict[str, Place]:
    """Share out what is below the table."""
    middle = nodes + 3
    if wide and rest.height >= middle + EVENTS_MIN:
        return _stacked(view, nodes, rest, middle)
    if rest.height < 9:
        return {TABS[view.tab]: rest}
    # One pane at a time, and some events below it.
    tab = TABS[view.tab]
    if tab == "events":
        return {"events": rest}
    upper = min(rest.height - EVENTS_MIN, max(CHARTS_MIN + 2, nodes + 3))
    return {
        tab: rest._replace(height=upper),
        "events": rest._replace(y=rest.y + upper, height=rest.height - upper),
    }


def _stacked(view: View, nodes: int, rest: Place, middle: int) -> dict[str, Place]:
    """Log map and links side by side, charts where there is room, events below."""
    left = rest.height - middle - EVENTS_MIN
    charts = 0
    if left >= CHARTS_MIN:
        # A line per node of what is left over goes to the charts, if the events keep two fifths.
        full = min(max(nodes + 3, CHARTS_FULL), left * 3 // 5)
        charts = min(left, max(CHARTS_MIN, min(nodes + 3, 9), full))
    links = max(34, min(rest.width // 2, 8 + 5 * nodes + (20 if rest.width >= 118 else 0)))
    if rest.width - links < 50:
        links = max(30, rest.width - 60)
    y = rest.y
    if not charts and TABS[view.tab] == "charts":
        lower = rest._replace(y=y + middle, height=rest.height - middle)
        return {"charts": rest._replace(height=middle), "events": lower}
    places = {
        "logs": Place(0, y, rest.width - links, middle),
        "links": Place(rest.width - links, y, links, middle),
    }
    y += middle
    if charts:
        places["charts"] = Place(0, y, rest.width, charts)
        y += charts
    places["events"] = Place(0, y, rest.width, rest.y + rest.height - y)
    return places


Painter = Callable[[Picture, View, Size], tuple[Row, ...]]
_PAINTERS: Final[dict[str, Painter]] = {
    "brief": brief_rows,
    "header": header_rows,
    "logs": log_rows,
    "links": link_rows,
    "charts": chart_rows,
    "events": event_rows,
    "caption": lambda _, view, size: (caption_row(view, size.width),),
    "timeline": lambda picture, view, size: (timeline_row(picture, view, size.width),),
}


def pane_rows(
    name: str, picture: Picture, view: View, size: Size, beside: Beside
) -> tuple[Row, ...]:
    """Return one pane's rows: exactly `size.height` of them, each `size.width` wide."""
    if name == "nodes":
        rows = node_rows(picture, view, size, boxed=size.width >= WIDE)
    elif name == "footer":
        rows = (footer_row(beside.keys, view, size.width),)
    elif name == "page":
        rows = _page_rows(picture, view, size, beside)
    else:
        rows = _PAINTERS[name](picture, view, size)
    return tuple(fit(row, size.width) for row in rows[: size.height])


def _page_rows(picture: Picture, view: View, size: Size, beside: Beside) -> tuple[Row, ...]:
    if view.page == "node":
        return node_page(picture, view, size, beside.dossier)
    if view.page == "link":
        return link_page(picture, view, size)
    if view.page == "wal":
        return microscope_page(picture, view, size, beside.sight)
    if view.page == "groups":
        return group_page(picture, view, size)
    return help_rows(beside.help_keys, beside.choices, size, view.scroll)


def overlay_rows(beside: Beside, size: Size) -> tuple[Place, tuple[Row, ...]] | None:
    """Return what lies over the page, and where; None if nothing does."""
    width = min(size.width, 100)
    x, room = (size.width - width) // 2, max(6, size.height - 3)
    if beside.question is not None:
        rows = question_rows(beside.question, width)
        y = max(0, (size.height - len(rows)) // 2)
    elif beside.chord is not None:
        rows = chord_rows(beside.chord, width, room)
        y = max(0, size.height - 2 - len(rows))
    elif beside.palette is not None:
        rows = palette_rows(beside.palette, width, min(room, 18))
        y = min(2, max(0, size.height - len(rows)))
    else:
        return None
    rows = rows[: size.height]
    return Place(x, y, width, len(rows)), rows


def compose(picture: Picture, view: View, size: Size, beside: Beside) -> tuple[Row, ...]:
    """Return the whole screen as rows, overlay included."""
    nodes = len(picture.frame.nodes) if picture.frame else 0
    lines: list[list[Row]] = [[] for _ in range(size.height)]
    places = layout(view, nodes, size)
    for name, place in sorted(places.items(), key=lambda item: (item[1].y, item[1].x)):
        for offset, row in enumerate(pane_rows(name, picture, view, place.size, beside)):
            lines[place.y + offset].append(row)
    rows = [fit([span for part in line for span in part], size.width) for line in lines]
    above = overlay_rows(beside, size)
    if above is not None:
        place, over = above
        for offset, row in enumerate(over):
            rows[place.y + offset] = _over(rows[place.y + offset], row, place.x, size.width)
    return tuple(rows)


def _over(below: Row, above: Row, x: int, width: int) -> Row:
    right = x + width_of(above)
    return fit([*cut(below, 0, x), *above, *cut(below, right, width)], width)


def screen_text(rows: Sequence[Row], *, ascii_only: bool = False) -> str:
    """Return rows as text, as a terminal would show them without colours."""
    return "\n".join(plain(ascii_row(row) if ascii_only else row).rstrip() for row in rows) + "\n"
