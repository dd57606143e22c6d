"""Specifications derived by tracing: a graph of the model, a rule for each operator, the constraints solved."""
