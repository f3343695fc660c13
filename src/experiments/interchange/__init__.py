"""Models that leave this harness: a folder that transformers loads, and its way back."""
