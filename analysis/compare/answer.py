"""Compute and answer a question of `python -m analysis compare`, as all of them do."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from inspect import signature
from typing import Any

from matplotlib.figure import Figure

from analysis.command import Options, Output
from analysis.comparison import Comparison
from analysis.fitting.plain import plain
from analysis.questions import is_typed


def typed(options: Options, function: Callable[..., Any]) -> dict[str, Any]:
    """Arguments of a function that were typed as options of the same names; one baseline."""
    names = [name for name in signature(function).parameters if name in options]
    found = {name: getattr(options, name) for name in names if is_typed(options, name)}
    first, *more = found.get("baseline", [None])
    if more:
        raise ValueError(
            f"--baseline {more[0]} is the second, and {options.command} compares with one: {first}"
        )
    if first == "":
        raise ValueError("--baseline is empty; give a value, or leave it out")
    return found if first is None else {**found, "baseline": first}


def check_choice(options: Options, name: str, known: Sequence[str]) -> None:
    """Raises ValueError for a choice that other questions have, and this one doesn't."""
    value = getattr(options, name)
    if value is not None and value not in known:
        raise ValueError(
            f"--{name} {value} is not one of {', '.join(known)}, which {options.command} takes"
        )


def by(
    function: Callable[..., Comparison], **drawn: Callable[[Any], Figure]
) -> Callable[[Options, Any], Output]:
    """Compute of a question: a function of what was read, and of what was typed. drawn: the
    names of figures, and what draws them.
    """

    def compute(options: Options, read: Any) -> Output:
        found = function(read, **typed(options, function))
        figures = {name: partial(draw, found) for name, draw in drawn.items()}
        return answered(options, found, figures=figures)

    return compute


def answered(
    options: Options,
    found: Comparison,
    *,
    said: Sequence[str] = (),
    name: str | None = None,
    form: str = "",
    figures: Mapping[str, Callable[[], Figure]] = {},
) -> Output:
    """A comparison as the command writes and prints it. said: lines above; name: of the table's
    file, if not the question's. form: Output's.
    """
    frame = found.to_frame()
    rows = plain(frame.to_dict("records"))
    return Output(
        values={"question": options.command, "table": rows, **found.to_dict()},
        text="\n".join([*said, found.summary()]),
        figures=figures,
        tables={name or options.command: frame},
        form=form,
    )
