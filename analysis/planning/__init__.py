"""What to run next: of what size (size), which runs (runs), how many seeds (seeds)."""
