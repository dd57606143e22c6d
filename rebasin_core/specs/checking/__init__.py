"""What the check of specifications is made of: runs in float64, random parameters, comparison, control and advice."""
