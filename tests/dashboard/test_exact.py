"""What is written to the terminal when cells changed: where, in which colours, and nothing beside."""

import re
from io import StringIO

from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from dashboard.widgets.exact import ExactUpdate
from dashboard.widgets.pane import _differing

PLAIN = Style.parse("#010203 on #101010")
LOUD = Style.parse("#040506 on #101010")
BOLD = Style.parse("bold #040506 on #101010")


def written(spans, *segments):
    console = Console(file=StringIO(), color_system="truecolor", force_terminal=True)
    strip = Strip([Segment(text, style) for text, style in segments])
    return ExactUpdate([{2: strip}], spans, [[2 + strip.cell_length]]).render_segments(console)


def test_only_the_span_is_written():
    text = written([(0, 4, 6)], ("abcdef", PLAIN))
    assert text == "\x1b[1;5H\x1b[0;38;2;1;2;3;48;2;16;16;16mcd\x1b[0m"


def test_spans_of_other_panes_are_not_ours():
    assert written([(0, 0, 2), (0, 8, 9)], ("abcdef", PLAIN)) == "\x1b[0m"


def test_on_one_ground_only_the_colour_is_changed():
    text = written([(0, 2, 6)], ("ab", PLAIN), ("cd", LOUD))
    assert text.endswith("ab\x1b[38;2;4;5;6mcd\x1b[0m")


def test_what_is_bold_ends_where_it_ends():
    text = written([(0, 2, 8)], ("ab", LOUD), ("cd", BOLD), ("ef", LOUD))
    colours = re.findall(r"\x1b\[([^m]*)m(\w+)", text.partition("H")[2])
    assert [(codes.startswith("0;1;"), shown) for codes, shown in colours] == [
        (False, "ab"), (True, "cd"), (False, "ef"),
    ]  # fmt: skip
    assert all(codes.startswith("0;") for codes, _ in colours)


def test_rows_differ_in_runs_with_short_gaps_closed():
    before = (("  12", "a"), ("    ", "a"), ("xyz", "b"))
    assert _differing(before, (("  13", "a"), ("    ", "a"), ("xyz", "b"))) == [(3, 4)]
    assert _differing(before, (("  13", "a"), ("    ", "a"), ("xyz", "c"))) == [(3, 4), (8, 11)]
    assert _differing(before, (("  13", "a"), ("  4 ", "a"), ("xyz", "b"))) == [(3, 7)]


def test_a_row_with_wide_signs_is_one_run():
    runs = _differing((("ab", "a"),), (("界b", "a"),))
    assert runs[0][0] == 0
    assert runs[0][1] > 100
