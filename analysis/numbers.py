"""How numbers are written, in figures, on pages and in messages: each kind in one way."""

import math
from collections.abc import Callable, Sequence

_DIGITS = 4  # significant, of a column that needs them


def flops(value: float) -> str:
    """3e12: a budget in text."""
    mantissa, exponent = f"{value:.3e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def flops_mathtext(value: float) -> str:
    """2 x 10^11 as mathtext: a budget in a figure."""
    mantissa, exponent = f"{value:.3e}".split("e")
    if float(mantissa) == 1:
        return f"$10^{{{int(exponent)}}}$"
    return f"${float(mantissa):g}\\times10^{{{int(exponent)}}}$"


def count(value: float, digits: int = 3) -> str:
    """1.5M for 1500000: parameters, tokens or the like, at so many digits."""
    for unit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit * (1 - 0.5 * 10**-digits):
            return f"{value / unit:.{digits}g}{letter}"
    return f"{value:z.{digits}g}"  # z: 0, not -0


def experts(value: float) -> str:
    """16k for 16384 and 1M for 1048576, as He 2024 calls them: cut, not rounded."""
    if value < 1e4:
        return f"{value:.6g}"
    unit, letter = (1e6, "M") if value >= 1e6 else (1e3, "k")
    scaled = value / unit
    steps = 1 if scaled >= 10 else 10
    return f"{math.floor(scaled * steps) / steps:g}{letter}"


def tick(value: float) -> str:
    """A loss or a perplexity on an axis, as such."""
    return f"{value:.6g}" if value < 1e5 else count(value, 5)


def with_interval(value: float, lower: float, upper: float, *, signed: bool = False) -> str:
    """1.24 (1.11 to 1.39): at two digits of the interval's width, four decimals at most.

    Large ones are counts: 251k (240k to 264k). nan: no interval. signed: with a plus above 0.
    """
    if not math.isfinite(value):
        return f"{value:g}"
    has_interval = lower <= upper
    width = upper - lower if has_interval else 0.0
    if not 0 < width < math.inf:
        width = abs(value) / 10  # three digits
    decimals = min(max(1 - math.floor(math.log10(max(width, 1e-9))), 0), 4)
    sign = "+" if signed else ""

    def show(number: float) -> str:
        return count(number) if abs(value) >= 1e4 else f"{number:{sign}z.{decimals}f}"

    return f"{show(value)} ({show(lower)} to {show(upper)})" if has_interval else show(value)


def column(values: Sequence[float]) -> Callable[[float], str]:
    """Writes numbers of one column with as many significant digits as it needs, up to four.

    A column of large or small numbers is written as 1.234e18, which spreadsheets read; one of
    whole numbers below a million in full.
    """
    finite = [abs(float(value)) for value in values if math.isfinite(value)]
    whole = all(value.is_integer() for value in finite)
    digits = max(map(_needed, finite), default=1)
    largest = max(finite, default=0.0)
    scientific = largest >= (1e6 if whole else 1e5) or largest <= 1e-2

    def show(value: float) -> str:
        if not math.isfinite(value) or value == 0:
            return f"{value:g}"
        if scientific or abs(value) < 1e-4:
            mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
            return f"{mantissa}e{int(exponent)}"
        decimals = 0 if whole else max(0, digits - 1 - math.floor(math.log10(abs(value))))
        return f"{value:.{decimals}f}"

    return show


def _needed(value: float) -> int:
    """Significant digits without trailing zeros; 0.5 needs 1."""
    mantissa, _ = f"{value:.{_DIGITS - 1}e}".split("e")
    return len(mantissa.rstrip("0").replace(".", ""))
