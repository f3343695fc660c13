"""A question that `python -m analysis compare` answers, and which one a table is for."""

import importlib
import pkgutil
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from inspect import signature
from typing import Any, TypeVar

import pandas as pd
from matplotlib.figure import Figure

from analysis.command import Command, Options, Output
from analysis.compare import questions
from analysis.comparison import Comparison
from analysis.fitting.plain import plain
from analysis.options import check_options, pairs
from analysis.table.sources import read_source

T = TypeVar("T")
_EVERY = ("question", "level")  # options that every question takes


@dataclass(frozen=True, kw_only=True)
class Question(Command[T]):
    """A question; the file in questions/ that has it as QUESTION names it. read finds what was read
    of the path as options.source.

    order: of several that suit a table the lowest is taken. suits: whether runs, under our names,
    are made for it; without a source, whether the path is. options: none with a default, so that
    it is known which were typed; takes: what those of several questions are here, by their names.
    """

    order: int
    suits: Callable[[Options, pd.DataFrame], bool] = lambda _, __: False
    takes: Mapping[str, str] = field(default_factory=dict)
    of_source: bool = True

    @property
    def known(self) -> set[str]:
        """Options that it takes, beside those of all commands."""
        names = re.findall(r"^--([\w-]+)", self.options, re.MULTILINE)
        return {*_EVERY, *self.takes, *(name.replace("-", "_") for name in names)}


@cache
def find_questions() -> Mapping[str, Question[Any]]:
    """By name, in their order."""
    names = sorted(module.name for module in pkgutil.iter_modules(questions.__path__))
    found = {n: importlib.import_module(f"{questions.__name__}.{n}").QUESTION for n in names}
    return dict(sorted(found.items(), key=lambda item: item[1].order))


def choose(options: Options) -> None:
    """Puts the question that was named, or that options and runs are for, in the command's place.

    Raises ValueError for options that no question takes together, or runs that are for none.
    """
    every = find_questions()
    asked = {name for one in every.values() for name in one.known if is_typed(options, name)}
    for name in sorted(asked - {*_EVERY}):
        takers = [n for n, one in every.items() if name in one.known]
        if options.question not in (None, *takers):
            raise ValueError(
                f"--{name.replace('_', '-')} is for {' and '.join(takers)}, and not for "
                f"{options.question}; leave it out"
            )
    able = [name for name, one in every.items() if asked <= one.known]
    if options.question is not None:
        able = [options.question]
    if not able:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(asked))
        raise ValueError(f"no question takes {flags} together; leave out those of another")
    name, *others = able if len(able) == 1 else _suiting(options, able)
    question = every[name]
    options.chosen, options.command = question, name  # files and messages are the question's
    check_options(options)
    question.check(options)
    if question.of_source and "source" not in options:
        options.source = read_source(options.path, options.separator)
    if options.question is None and not options.json:
        more = f"; for another: --question {', '.join(others)}" if others else ""
        print(f"question: {name}, {question.help}{more}")


def _suiting(options: Options, names: Sequence[str]) -> list[str]:
    """Those questions that the path is for, the first to be taken first."""
    every = find_questions()
    try:
        options.source = read_source(options.path, options.separator)
    except ValueError:
        apart = [n for n in names if not every[n].of_source and every[n].suits(options, _NOTHING)]
        if not apart:
            raise
        return apart
    renamed = {theirs: ours for ours, theirs in pairs("column", options.column).items()}
    runs = options.source.frame.rename(columns=renamed)
    found = [name for name in names if every[name].of_source and every[name].suits(options, runs)]
    if not found:
        listed = "; ".join(f"{name}: {every[name].help}" for name in names)
        raise ValueError(f"{options.path} is for no question by itself; give --question: {listed}")
    return found


_NOTHING = pd.DataFrame()


def is_typed(options: Options, name: str) -> bool:
    value = getattr(options, name)
    return value is not None and value is not False and value != []


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
    figures: Mapping[str, Callable[[], Figure]] = {},
) -> Output:
    """A comparison as the command writes and prints it. said: lines above; name: of the table's
    file, if not the question's.
    """
    frame = found.to_frame()
    rows = plain(frame.to_dict("records"))
    return Output(
        values={"question": options.command, "table": rows, **found.to_dict()},
        text="\n".join([*said, found.summary()]),
        figures=figures,
        tables={name or options.command: frame},
    )
