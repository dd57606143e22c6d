"""Conversion of objects and checkpoints of other libraries, without importing them."""
