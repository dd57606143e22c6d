"""The engine: computes the stages of a plan with an executor, and survives faults of workers."""
