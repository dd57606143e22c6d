"""Unification of axes: terms with variables, constraints between them, and the solution as groups and axes."""
