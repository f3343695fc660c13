"""Tasks with a right answer: ours in JSON lines, and those of lm-evaluation-harness."""
