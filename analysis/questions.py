"""Commands that answer one of several questions, a file each: which one was asked."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import ModuleType
from typing import Any, Self, TypeVar

import pandas as pd

from analysis.command import Command, Described, Options
from analysis.options import declared, pairs, read_options
from analysis.table.sources import read_source

T = TypeVar("T")
_NOTHING = pd.DataFrame()


@dataclass(frozen=True, kw_only=True)
class Question(Command[T]):
    """A question; the file that has it as QUESTION names it. read finds what was read of the path
    as options.source.

    help: a line on it. order: of several that suit a table the lowest is taken. suits: whether
    runs, under our names, are made for it; without a source, whether the path is. takes: what
    options of several questions are here, by their names; requires: options without which it isn't
    asked.
    """

    help: str
    order: int
    suits: Callable[[Options, pd.DataFrame], bool] = lambda _, __: False
    takes: Mapping[str, str] = field(default_factory=dict)
    requires: Sequence[str] = ()
    of_source: bool = True

    def run(self, options: Options) -> None:
        if self.of_source and "source" not in options:
            options.source = read_source(options.path, options.separator)
        if options.found is not None and not options.json:
            print(options.found)
        super().run(options)


@dataclass(frozen=True, kw_only=True)
class Asking(Described):
    """A command that answers one of several questions.

    questions: the package whose files they are. known: the options that each takes. prefix: of a
    question's name, in messages and in names of files.
    """

    questions: ModuleType
    known: Mapping[str, frozenset[str]]
    prefix: str = ""

    @classmethod
    def of(cls, questions: ModuleType, shared: str, **described: str) -> Self:
        """shared: options of several questions, --question among them. Those that no question takes
        by name are of each.
        """
        found = find_questions(questions)
        taken = {name for one in found.values() for name in one.takes}
        of_each = {option.dest for option in read_options(shared)} - taken
        known = {
            name: frozenset({*of_each, *one.takes, *(o.dest for o in read_options(one.options))})
            for name, one in found.items()
        }
        groups = {f"{name}: {one.help}": one.options for name, one in found.items()}
        groups = {"several questions": shared, **groups}
        return cls(questions=questions, known=known, groups=groups, **described)

    def choose(self, options: Options) -> None:
        """Puts the question that was named, or that options and runs are for, in the command's
        place. Raises ValueError for options that no question takes together, or that one lacks, or
        runs that are for none.
        """
        every = find_questions(self.questions)
        takes = frozenset().union(*self.known.values()) - {"question"}
        own = [option for option in declared(options) if option.dest in takes]
        flags = {option.dest: option.flag for option in own}
        asked = {o.dest for o in own if is_typed(options, o.dest, o.default)}
        for name in sorted(asked) if options.question else ():
            if name not in self.known[options.question]:
                takers = [one for one, known in self.known.items() if name in known]
                raise ValueError(
                    f"{flags[name]} is for {' and '.join(takers)}, and not for "
                    f"{options.question}; leave it out"
                )
        able = [name for name in every if options.question in (None, name)]
        able = [name for name in able if asked <= self.known[name]]
        if not able:
            both = ", ".join(sorted(flags[name] for name in asked))
            raise ValueError(f"no question takes {both} together; leave out those of another")
        name, *others = self._ready(options, able, flags)
        question = every[name]
        options.chosen, options.command = question, f"{self.prefix}{name}"
        more = f"; for another: --question {', '.join(others)}" if others else ""
        found = f"question: {name}, {question.help}{more}"
        options.found = None if options.question else found  # it is printed once the path was read

    def _ready(
        self, options: Options, names: Sequence[str], flags: Mapping[str, str]
    ) -> Sequence[str]:
        """Those questions that lack nothing and that the path is for, the first to be taken."""
        every = find_questions(self.questions)
        ready = [n for n in names if all(is_typed(options, need) for need in every[n].requires)]
        if not ready:
            needs = [" with ".join(flags[need] for need in every[n].requires) for n in names]
            listed = "; ".join(
                f"{need}: {every[n].help}" for n, need in zip(names, needs, strict=True)
            )
            raise ValueError(f"{options.command} needs more options; give {listed}")
        return ready if len(ready) == 1 else self._suiting(options, ready)

    def _suiting(self, options: Options, names: Sequence[str]) -> list[str]:
        every = find_questions(self.questions)
        try:
            options.source = read_source(options.path, options.separator)
        except ValueError:
            apart = [
                n for n in names if not every[n].of_source and every[n].suits(options, _NOTHING)
            ]
            if not apart:
                raise
            return apart
        renamed = {theirs: ours for ours, theirs in pairs("column", options.column).items()}
        runs = options.source.frame.rename(columns=renamed)
        found = [n for n in names if every[n].of_source and every[n].suits(options, runs)]
        if not found:
            listed = "; ".join(f"{name}: {every[name].help}" for name in names)
            raise ValueError(
                f"{options.path} is for no question by itself; give --question: {listed}"
            )
        return found


@cache
def find_questions(package: ModuleType) -> Mapping[str, Question[Any]]:
    """By name, in their order."""
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    found = {n: importlib.import_module(f"{package.__name__}.{n}").QUESTION for n in names}
    return dict(sorted(found.items(), key=lambda item: item[1].order))


def said(package: ModuleType, name: str) -> str:
    """Help of an option of several questions: a text for each of them."""
    taken = {question: one.takes[name] for question, one in find_questions(package).items()
             if one.takes.get(name)}  # fmt: skip
    return "; ".join(f"{question}: {text}" for question, text in taken.items())


def is_typed(options: Options, name: str, default: str | None = None) -> bool:
    value = getattr(options, name)
    return value is not None and value is not False and value not in ([], default)
