"""Compare runs: models, layers, ways to grow, adapt, go on learning, choose adapters."""

from analysis.compare import questions
from analysis.options import one_of
from analysis.questions import Asking, find_questions, said

COMMAND = Asking.of(
    questions,
    description="Compare runs by one question: an estimate a row with its interval, as text, "
    "QUESTION.json and QUESTION.csv, and as figures. Without --question it is found from the "
    "options and the runs, and printed.",
    shared=f"""
--question {one_of(find_questions(questions))}  which question (default: the first of these whose
    options are given and whose runs the table has)
--level LEVEL  of intervals (default: 0.95)
--baseline NAME...  that others are compared with. {said(questions, "baseline")}
--by COLUMN  in parts. {said(questions, "by")}
--x SIZE  the size. {said(questions, "x")}
""",
)
