"""Widgets that paint presenter rows."""
