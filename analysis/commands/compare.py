"""Estimates of how runs differ, with intervals: by a question, found from the runs or named."""

from typing import NoReturn

from analysis.command import Command
from analysis.compare.question import choose, find_questions
from analysis.contrast.points import SIZES
from analysis.isoflop.fit import X_NAMES
from analysis.options import one_of

_SEVERAL = f"""
--question {one_of(find_questions())}  which question (default: the first of these whose options are
    given and whose runs the table has)
--level LEVEL  of intervals (default: 0.95)
--baseline NAME...  the model, layer or way that others are compared with (default: dense; of
    forgetting full fine-tuning; of contrast, which takes several, all others if --layer is given)
--by COLUMN  differences: at each value of a column, e.g. n_experts, and on the average; contrast:
    domain or targets of the held-out text, targets being repeated ones, which a model that copies
    can know, and new ones, by the losses of documents in records
--x {one_of(dict.fromkeys((*X_NAMES, *SIZES)))}  the size (default: n_params; of contrast d_model
    where it is known for all)
"""


def _in_its_place(*_: object) -> NoReturn:
    raise AssertionError("the question that was chosen reads and computes")


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
