"""Folding of normalizations into neighboring weights, and its reversal."""
