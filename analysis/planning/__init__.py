"""Plans of the next runs: of what size (size), which runs (runs), how many seeds (seeds)."""
