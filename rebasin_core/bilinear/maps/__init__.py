"""Alignment by linear maps of units: similarities between units, optimal maps, a common gauge, and the descent."""
