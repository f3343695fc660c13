"""Phrases that summaries and messages share."""

from collections.abc import Sequence

import pandas as pd

from analysis.fitting.status import FitStatus

_FEW_DOF = 3


def pluralize(n: int, noun: str) -> str:
    """ "1 budget", "2 budgets"."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def join_first(items: Sequence[str], n: int = 3, separator: str = ", ") -> str:
    """First n of them, and how many more: "a, b, c, and 16 more"."""
    more = [f"and {len(items) - n} more"] if len(items) > n else []
    return separator.join([*items[:n], *more])


def in_brackets(low: float, high: float, form: str) -> str:
    """Interval after its value, "(1.2 to 1.4)"; "(no interval)" where the runs give none."""
    return f"({low:{form}} to {high:{form}})" if low <= high else "(no interval)"


def in_columns(frame: pd.DataFrame, digits: int = 4) -> str:
    """Frame without its index, fractions at so many significant digits."""
    return frame.to_string(index=False, float_format=lambda value: f"{value:.{digits}g}")


class Said(str):
    """A warning that was printed already: a result has it, and a summary does not repeat it."""

    __slots__ = ()


def unsaid(warnings: Sequence[str]) -> list[str]:
    """Warnings that a summary prints."""
    return [text for text in warnings if not isinstance(text, Said)]


def format_status(status: FitStatus, warnings: Sequence[str]) -> list[str]:
    """Line of a summary with the status and its warnings; none without warnings."""
    left = unsaid(warnings)
    return [f"  {status}: {'; '.join(left)}"] if left else []


def noise_cautions(dof: int) -> tuple[str, ...]:
    """Cautions about noise that is estimated with so many degrees of freedom; () from 3 on."""
    few = f"{pluralize(dof, 'degree')} of freedom: the noise itself is hardly known"
    return (few,) if dof < _FEW_DOF else ()
