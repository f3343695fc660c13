"""Learning and forgetting of runs that learnt a stream of domains."""

import sys
from collections.abc import Sequence
from functools import partial

from analysis.command import Command, Options, Output, load_records, load_runs
from analysis.figures.forgetting import draw_forgetting
from analysis.forgetting.compare import compare_forgetting, has_learnt
from analysis.forgetting.ways import unreadable
from analysis.options import given
from analysis.table.sources import read_source
from experiments.records.record import RunRecord


def _read(options: Options) -> list[RunRecord]:
    source = read_source(options.path, options.separator)
    records = []
    for record in load_records(source, load_runs(options, source, by_cell=False)):
        why = unreadable(record) if has_learnt(record) else None
        if why is None:
            records.append(record)
        else:
            print(f"warning: excluded: {why}", file=sys.stderr)
    return records


def _compute(options: Options, records: Sequence[RunRecord]) -> Output:
    found = compare_forgetting(records, **given(options, compare_forgetting))
    return Output.of(found, figures={"forgetting": partial(draw_forgetting, found)})


COMMAND = Command(
    help="compare ways to go on learning from a stream",
    options="""
--learning BITS  compare forgetting where each has learnt this much, in bits/byte (default: what
    most ways have learnt)
--baseline WAY  the way that others are compared with there (default: full fine-tuning)
""",
    read=_read,
    compute=_compute,
    by_model=True,
    unused=("column", "unit", "flops"),
    reads="the stages of records, in bits/byte",
)
