"""Estimates of how runs differ, with intervals: a question, found from the table or named."""

from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from analysis.command import Command, Options, Output
from analysis.compare.question import Question, choose, find_questions, question_names
from analysis.contrast.points import SIZES
from analysis.isoflop.fit import X_NAMES
from analysis.options import check_options, one_of
from analysis.table.sources import Source


@dataclass(frozen=True, kw_only=True, eq=False)
class _Read:
    """What a question reads of a source."""

    question: Question[Any]
    found: Any

    @property
    def table(self) -> pd.DataFrame | None:
        """The table, by whose unit losses are printed."""
        own = getattr(self.found, "table", self.found)
        return own if isinstance(own, pd.DataFrame) else None


def _read(options: Options) -> _Read:
    name, source, others = choose(options)
    question = find_questions()[name]
    options.command = name  # files and messages are the question's
    options.chosen = replace(
        options.chosen,
        by_model=question.by_model,
        unused=question.unused,
        reads=question.reads,
    )
    check_options(options)
    question.check(options)
    if options.question is None and not options.json:
        other = f"; --question asks another: {', '.join(others)}" if others else ""
        print(f"question: {name}, {question.help}{other}")
    found = question.read(options, source or Source(frame=pd.DataFrame()))
    return _Read(question=question, found=found)


def _compute(options: Options, read: _Read) -> Output:
    return read.question.compute(options, read.found)


_SEVERAL = f"""
--question {question_names()}  which question (default: the first whose options are given and whose
    runs the table has)
--level LEVEL  of intervals (default: 0.95)
--baseline NAME...  the model, layer or way that others are compared with (default: dense; of
    forgetting full fine-tuning; of contrast dense, with --layer all others; several there)
--by COLUMN  differences: at each value of a column, e.g. n_experts, and on the average; contrast:
    domain or targets of the held-out text, targets being repeated ones, which a model that copies
    can know, and new ones, by the losses of documents in records
--x {one_of(dict.fromkeys((*X_NAMES, *SIZES)))}  the size (default: n_params; of contrast d_model
    where it is known for all)
"""

COMMAND = Command(
    help="compare runs: models, layers, ways to grow, adapt, go on learning, choose adapters",
    description="Compare runs by one question: an estimate a row with its interval, as text, "
    "QUESTION.json and QUESTION.csv, and as figures. Without --question it is found from the "
    "options and the runs, and printed.",
    groups={
        "several questions": _SEVERAL,
        **{f"{name}: {one.help}": one.options for name, one in find_questions().items()},
    },
    read=_read,
    compute=_compute,
)
