"""A plugin that exits when it is imported."""

raise SystemExit(0)
