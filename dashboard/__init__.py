"""Pixels: cluster frames turned into rows, widgets and a terminal application."""
