"""The computations of the stages, one file per kind."""
