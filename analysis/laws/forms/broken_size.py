"""Chinchilla's law whose exponent of size changes once (analysis/laws/broken.py).

Beyond the break a larger model may be the worse one at equal tokens, as it is where its learning
rate is not tuned.
"""

import numpy as np

from analysis.laws.broken import broken

LAW = broken(
    "N",
    name="broken_size",
    least=-0.5,
    beyond=(-0.2, -0.05, 0.02, *np.geomspace(0.08, 0.8, 7).tolist()),
)
