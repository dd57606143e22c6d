"""Parts of `check_spec`: runs in float64, random parameters, comparison, positive control and suggestions."""
