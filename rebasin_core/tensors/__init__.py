"""Pure functions on tensors, without any notion of a network."""
