"""A question that `python -m analysis compare` answers, and which one a table is for."""

import importlib
import pkgutil
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from inspect import signature
from typing import Any, Generic, TypeVar

import pandas as pd

from analysis.command import Options, Output
from analysis.compare import questions
from analysis.comparison import Comparison
from analysis.fitting.plain import plain
from analysis.options import one_of, pairs
from analysis.table.sources import Source, read_source

T = TypeVar("T")
SHARED = ("question", "level")  # options that every question takes


@dataclass(frozen=True, kw_only=True)
class Question(Generic[T]):
    """A question; the file in questions/ that has it as QUESTION names it.

    help: a line. suits: whether a table, as it stands in a source, is made for it; of several the
    one of the lowest order is taken. read: what to compute from, of the source, None where
    of_table is no. compute: the output, by `answered`. options: its own, as options.declare reads
    them, none with a default, so that what is typed is known; takes: those of SEVERAL. check:
    raises ValueError for options that don't go together, before anything is read. by_model, unused,
    reads: as in Command.
    """

    help: str
    order: int
    read: Callable[[Options, Source], T]
    compute: Callable[[Options, T], Output]
    suits: Callable[[Options, Source], bool] = lambda _, __: False
    options: str = ""
    takes: Sequence[str] = ()
    check: Callable[[Options], None] = lambda _: None
    of_table: bool = True
    by_model: bool = False
    unused: Sequence[str] = ()
    reads: str = ""

    @property
    def known(self) -> tuple[str, ...]:
        """The options that it takes, beside those of all commands."""
        return (*SHARED, *self.takes, *names_in(self.options))


def names_in(declared: str) -> tuple[str, ...]:
    """The names of options that are written down."""
    names = re.findall(r"^--(?:\[no-\])?([\w-]+)", declared, re.MULTILINE)
    return tuple(name.replace("-", "_") for name in names)


@cache
def find_questions() -> Mapping[str, Question[Any]]:
    """By name, the first to be taken first."""
    names = sorted(module.name for module in pkgutil.iter_modules(questions.__path__))
    found = {n: importlib.import_module(f"{questions.__name__}.{n}").QUESTION for n in names}
    return dict(sorted(found.items(), key=lambda item: item[1].order))


def typed(options: Options, function: Callable[..., Any]) -> dict[str, Any]:
    """The arguments of a function that were typed as options of the same names."""
    known = signature(function).parameters
    return {k: v for k, v in vars(options).items() if k in known and is_typed(v)}


def is_typed(value: object) -> bool:
    return value is not None and value is not False and value != []


def only_baseline(options: Options) -> str | None:
    """The baseline, of a question that takes one; None if none was typed."""
    names = options.baseline
    if len(names) > 1:
        raise ValueError(
            f"--baseline {names[1]} is the second, and {options.command} compares with one: "
            f"{names[0]}"
        )
    return names[0] if names else None


def answered(
    options: Options,
    found: Comparison,
    *,
    said: Sequence[str] = (),
    name: str | None = None,
    figures: Mapping[str, Callable[[], Any]] = {},
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


def choose(options: Options) -> tuple[str, Source | None, Sequence[str]]:
    """The question that was asked for, or that the options and the table are for; the source, if it
    reads one; and the others that could be asked.

    Raises ValueError for options that no question takes together, and for a table that is for none.
    """
    every = find_questions()
    asked = [name for name in _names_of_all() if is_typed(getattr(options, name))]
    if options.question is not None:
        _refuse_others(options.question, asked)
        source = _source(options) if every[options.question].of_table else None
        return options.question, source, ()
    able = [name for name, one in every.items() if set(asked) <= {*one.known}]
    if not able:
        raise ValueError(f"{'; '.join(map(_whose, asked))}: no question takes them together")
    if len(able) == 1:
        return able[0], _source(options) if every[able[0]].of_table else None, ()
    try:
        source = _source(options)
    except ValueError:
        apart = [n for n in able if not every[n].of_table and every[n].suits(options, _NOTHING)]
        if not apart:
            raise
        return apart[0], None, ()
    suited = [n for n in able if every[n].of_table and every[n].suits(options, source)]
    if not suited:
        listed = "; ".join(f"{name}: {every[name].help}" for name in able)
        raise ValueError(
            f"{options.path} does not tell its question; give --question NAME, {listed}"
        )
    return suited[0], source, suited[1:]


_NOTHING = Source(frame=pd.DataFrame())


def _source(options: Options) -> Source:
    """What the path has, a foreign table's columns under our names."""
    return read_source(options.path, options.separator)


def under_our_names(options: Options, source: Source) -> pd.DataFrame:
    """The frame of a source, a foreign table's columns renamed as --column says."""
    given = pairs("column", options.column)
    return source.frame.rename(columns={theirs: ours for ours, theirs in given.items()})


def _names_of_all() -> tuple[str, ...]:
    return tuple(
        dict.fromkeys(
            name for one in find_questions().values() for name in one.known if name not in SHARED
        )
    )


def _whose(name: str) -> str:
    takers = [n for n, question in find_questions().items() if name in question.known]
    return f"--{name.replace('_', '-')} is for {' and '.join(takers)}"


def _refuse_others(question: str, asked: Sequence[str]) -> None:
    for name in asked:
        if name not in find_questions()[question].known:
            raise ValueError(f"{_whose(name)}, and not for {question}; leave it out")


def question_names() -> str:
    return one_of(find_questions())
