"""Axes that are not yet known, the equations between them, and their solution."""
