"""Parts of a run that starts from weights, a file each (experiments.points.parts finds them)."""
