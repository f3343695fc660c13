"""Toy sizes, and short repeats on one thread: for tests on a CPU, no measurement."""

import torch

from experiments.benchmarks.core import rates, timing
from experiments.benchmarks.core.loop import Sizes
from experiments.benchmarks.core.shapes import Shape
from experiments.models.ffn.peer import PEERConfig
from experiments.models.ffn.pkm import PKMConfig

SIZES = Sizes(d_model=32, d_head=16, n_layers=2, vocab_size=64, seq_len=8, sequences=2, n_micro=2)
HEADS = (3, 2, 2, 16, 8)
SHAPE = Shape(d_model=16, n_experts=64, n_tokens=8, n_heads=2, top_k=4, d_key=8)
PEER = PEERConfig(n_experts=64, n_heads=2, top_k=4, d_key=8)
PKM = PKMConfig(n_experts=64, n_heads=2, top_k=4, d_key=8)


def shorten() -> None:
    """Shortens this process's measurements, which then say nothing about speed."""
    timing.MIN_SECONDS, timing.TRIES = 0.002, 1
    rates.SQUARE["cpu"] = 32
    rates.COPY_BYTES = 2**16
    torch.set_num_threads(1)  # threads wait for each other, long on a machine that is busy
