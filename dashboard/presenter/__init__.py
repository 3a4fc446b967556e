"""Frames become rows of plain text with style names. Pure, and free of Textual: see `screen`."""
