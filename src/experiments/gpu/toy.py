"""Timing at toy size: short repeats, small products, one thread. For tests on a CPU."""

import torch

from experiments.benchmarks import rates, timing


def shorten() -> None:
    """Of this process; what it then measures says nothing about speed."""
    timing.MIN_SECONDS, timing.TRIES = 0.002, 1
    rates.SQUARE["cpu"] = 32
    rates.COPY_BYTES = 2**16
    torch.set_num_threads(1)  # threads wait for each other, long on a machine that is busy
