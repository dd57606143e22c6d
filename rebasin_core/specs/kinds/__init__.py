"""The kind of every group: which linear maps of its units leave the function unchanged, derived from the graph."""
