"""Learning and forgetting of runs that learnt a stream of domains."""

import sys

from analysis.command import Options, load_records, load_runs
from analysis.compare.answer import by
from analysis.figures.forgetting import draw_forgetting
from analysis.forgetting.compare import compare_forgetting, has_learnt
from analysis.forgetting.ways import unreadable
from analysis.questions import Question
from experiments.records.record import RunRecord


def _read(options: Options) -> list[RunRecord]:
    table, records = load_runs(options, options.source, by_cell=False), []
    for record in load_records(options.source, table):
        why = unreadable(record) if has_learnt(record) else None
        if why is None:
            records.append(record)
        else:
            print(f"warning: excluded: {why}", file=sys.stderr)
    return records


QUESTION = Question(
    help="ways to go on learning from a stream of domains: what is learnt, and what forgotten",
    order=1,
    options="""
--learning BITS  compare forgetting where each has learnt this much, in bits/byte (default: what
    most ways have learnt)
""",
    takes={"baseline": "the way (default: full fine-tuning)"},
    suits=lambda options, _: any(map(has_learnt, options.source.records)),
    read=_read,
    compute=by(compare_forgetting, forgetting=draw_forgetting),
    by_model=True,
    unused=("column", "unit", "flops"),
    reads="the stages of records, in bits/byte",
)
