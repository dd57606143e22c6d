"""Functions on tensors, files and names that do not depend on networks or posteriors."""
