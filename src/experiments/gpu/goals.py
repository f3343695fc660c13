"""Goals of measured numbers, and what others reached, with the source of each.

A goal is printed beside the measured number as met or not met, never as a result. Those of an H100
are arithmetic at 3.0 TB/s and 600 TFLOP/s, at d=1024 N=1024² T=16384 d_key=128, bfloat16 tables.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A range; must: a number outside of it is an error, and the part has failed."""

    at_least: float | None = None
    at_most: float | None = None
    must: bool = False

    def met(self, value: float) -> bool:
        """A NaN is not."""
        above = self.at_least is None or value >= self.at_least
        return above and (self.at_most is None or value <= self.at_most)

    def describe(self) -> str:
        """>= 0.8, <= 1.4, or both."""
        bounds = (("≥", self.at_least), ("≤", self.at_most))
        return ", ".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None)


WITHIN_TOLERANCE = Goal(at_most=1, must=True)
NONE_DIFFERS = Goal(at_most=0, must=True)
FLOAT32_ERROR = Goal(at_most=1e-5, must=True)  # TF32 has 10 bits of 23: some 1e-3
# the gathers' share of a copy's rate: 80 % of 3.0 TB/s
GATHER_SHARE = Goal(at_least=0.8)
LAYER_OVER_FLOOR = Goal(at_most=1.4)
LAYER_OVER_RIVAL = Goal(at_least=4)
STEP_OVER_DENSE = Goal(at_most=1.15)  # at equal counted FLOPs
LAYER_FLOOR = "7 to 9 ms on paper at 3.0 TB/s and 600 TFLOP/s"
OPTIMIZER_FLOORS = "both tables, on paper at 3.0 TB/s: dense AdamW 15.7 ms, fused rows 12.4 ms"

# Karpathy's llm.c, discussion 481 and its successors: GPT-2 124M, 10 billion tokens in 45 minutes
# on 8 H100s; 40 % of 989e12 by 6 N + 12 L d S
DENSE_TOKENS = Goal(at_least=300_000)
DENSE_MFU = Goal(at_least=0.40)
LLM_C = "llm.c: 463,000 tokens/s a card, 40 %"
NANOCHAT = "nanochat: dense 41 % (d12) and 46 % (d18), mixture of experts 35 % (d18)"
COMPILE = "torchtitan: 1.16 (Llama 8B, 8 H100s)"
MOE_OF_DENSE = Goal(at_least=0.75)  # nanochat's 35 % of 46 %
# memory.py claims as much of the CPU's resident memory
MEMORY_OF_PLAN = Goal(at_least=1 / 1.5, at_most=1.5)

# dense bfloat16 of the data sheets, FLOP/s, by what the card's name holds: the MFU of others
DATA_SHEET: Mapping[str, float] = {
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
}


def data_sheet(card: str) -> float | None:
    """bfloat16 FLOP/s of the card's data sheet; None for one that is not listed."""
    return next((rate for name, rate in DATA_SHEET.items() if name in card), None)
