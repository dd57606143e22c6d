"""The report of an alignment as text and JSON."""
