"""Say what a budget should buy, which runs to make next, or how many seeds to take."""

from analysis.isoflop.fit import X_NAMES
from analysis.options import one_of
from analysis.planning import questions
from analysis.questions import Asking, find_questions, said

COMMAND = Asking.of(
    questions,
    prefix="plan_",
    description="Plan the next runs by one of three questions: --budget alone asks what size, "
    "tokens and experts it should buy; --for, which runs would narrow an interval most per FLOP; "
    "--half-width, how many seeds differences between models need. Seeds are by pairs of runs of "
    "one seed at equal FLOPs and size: stop a cell when its half-width is reached, never by the "
    "sign of its difference or when it becomes significant: such a rule finds differences that are "
    "not there. Looking again after every seed is exact with --pilot, at a given --pool.",
    shared=f"""
--question {one_of(find_questions(questions))}  which question (default: the one whose options are
    given)
--budget FLOPS  in training FLOPs. {said(questions, "budget")}
--baseline BASELINE  the model that others are compared with (default: dense; of a law of experts
    none)
--model MODEL  which model, if the table has several
--x=n_params {one_of(X_NAMES)}  the size (%(default)s)
--level LEVEL  of intervals (default: 0.95)
""",
)
