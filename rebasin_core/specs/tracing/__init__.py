"""Specifications derived by tracing: capture the graph, apply the rule of each operator, solve the constraints."""
