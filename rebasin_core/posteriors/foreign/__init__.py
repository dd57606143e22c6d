"""Objects and checkpoints of other libraries, read by names and types alone: none of them is imported."""
