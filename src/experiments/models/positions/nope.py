"""No positions: order comes from the causal mask alone. Haviv 2022, arXiv:2203.16634; Kazemnejad
2023, arXiv:2305.19466.
"""

from dataclasses import dataclass

from experiments.models.positions.positions import Positions


@dataclass(frozen=True, kw_only=True)
class NoPE(Positions):
    """Nothing turns, and nothing is added."""
