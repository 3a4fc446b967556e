"""What goes to the terminal when a part of the screen changed: those cells, and as few escapes as do.

Textual's own update begins at the left edge of a pane whatever changed in it, and gives every
segment its colours in full and a reset, some 40 bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from rich.color import ColorSystem
from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from textual._compositor import ChopsUpdate

__all__ = ["ExactUpdate"]

RESET: Final = "\x1b[0m"


class ExactUpdate(ChopsUpdate):
    """A `ChopsUpdate` that writes its spans and nothing else."""

    def render_segments(self, console: Console) -> str:
        """Return what is written to the terminal."""
        system = console._color_system
        written: list[str] = []
        for y, x1, x2 in self.spans:
            for end, (x, strip) in zip(self.chop_ends[y], self.chops[y].items(), strict=False):
                if strip is None or x >= x2 or end <= x1:
                    continue
                first = max(x, x1)
                part = strip.crop(first - x, min(end, x2) - x)
                written.append(f"\x1b[{y + 1};{first + 1}H")
                written += _coloured(part, system)
        written.append(RESET)
        return "".join(written)


def _coloured(segments: Iterable[Segment], system: ColorSystem | None) -> Iterable[str]:
    """Yield texts and the escapes between them; each begins anew, for the update before it."""
    before: tuple[str, str] | None = None
    for text, style, _ in segments:
        whole, colour, ground = _codes(style or Style.null(), system)
        if before is None or before[1] != ground:
            yield f"\x1b[0;{whole}m" if whole else RESET
        elif before[0] != whole:
            yield f"\x1b[{colour}m"
        before = (whole, ground)
        yield text


@lru_cache(1024)
def _codes(style: Style, system: ColorSystem | None) -> tuple[str, str, str]:
    """Return a style's codes, those of its colour alone, and what else is in it."""
    rendered = style.render("x", color_system=system)
    whole = rendered[2 : rendered.index("m")] if rendered.startswith("\x1b") else ""
    if style.color is None or system is None:
        return whole, whole, whole
    colour = ";".join(style.color.downgrade(system).get_ansi_codes())
    return whole, colour, whole.replace(colour, "", 1)
