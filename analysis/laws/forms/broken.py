"""Chinchilla's law whose exponent of tokens changes once (analysis/laws/broken.py)."""

from analysis.laws.broken import broken

LAW = broken("D", name="broken")
