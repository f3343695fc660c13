"""Estimates of how runs differ, with intervals: by a question, found from the runs or named."""

from typing import NoReturn

from analysis.command import Command
from analysis.compare.question import choose, find_questions
from analysis.options import one_of


def _said(name: str) -> str:
    """Help of an option of several questions: a text for each of them."""
    taken = {question: one.takes[name] for question, one in find_questions().items()
             if name in one.takes}  # fmt: skip
    return "; ".join(f"{question}: {text}" for question, text in taken.items())


def _in_its_place(*_: object) -> NoReturn:
    raise AssertionError("the question that was chosen reads and computes")


_SEVERAL = f"""
--question {one_of(find_questions())}  which question (default: the first of these whose options are
    given and whose runs the table has)
--level LEVEL  of intervals (default: 0.95)
--baseline NAME...  that others are compared with. {_said("baseline")}
--by COLUMN  in parts. {_said("by")}
--x SIZE  the size. {_said("x")}
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
    check=choose,
    read=_in_its_place,
    compute=_in_its_place,
)
