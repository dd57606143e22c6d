"""Names of the files of artifacts."""

POSTERIOR = "posterior.safetensors"
"""File of a posterior."""

PERMUTATION = "permutation.safetensors"
"""File of a permutation."""
