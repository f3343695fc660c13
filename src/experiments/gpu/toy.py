"""Timing at toy size: short repeats, small products. For tests of the parts on a CPU."""

from experiments.benchmarks import rates, timing


def shorten() -> None:
    """Of this process; what it then measures says nothing about speed."""
    timing.MIN_SECONDS, timing.TRIES = 0.002, 1
    rates.SQUARE["cpu"] = 32
    rates.COPY_BYTES = 2**16
