"""A report's section on runs that learnt a stream of domains."""

from functools import partial

from analysis import numbers
from analysis.figures.forgetting import draw_forgetting
from analysis.figures.plot import Plot
from analysis.forgetting.equal import LESS, LOSSES, EqualLearning
from analysis.forgetting.ways import METRICS
from analysis.report.gallery import Draft
from analysis.report.page.blocks import DataTable
from analysis.report.tables import with_intervals
from analysis.study import Study


def forgetting_section(study: Study) -> Draft | None:
    """Ways to go on learning; None without."""
    found = study.forgetting
    if found is None:
        return None
    table = DataTable(
        frame=with_intervals(found.to_frame()),
        caption=f"Ways to go on learning, by learning rate, with {found.level:.0%} intervals over "
        "streams. Learning: what a stage gains on its domain; forgetting: what is lost of a "
        "domain's best loss by the end; base: what is lost on the base corpus",
        units=dict.fromkeys(METRICS, "bits/byte"),
        formats={"n_trained_params": numbers.count, "flops": numbers.flops},
    )
    plot = Plot(
        name="forgetting",
        caption="Forgetting against learning, a curve a way, a point a learning rate: the lowest "
        "at equal learning keeps most",
        make=partial(draw_forgetting, found),
    )
    equal = [] if found.equal is None else [_equal(found.equal)]
    return Draft(title="Learning and forgetting", parts=[table, *equal, plot])


def _equal(found: EqualLearning) -> DataTable:
    frame, names = found.to_frame(), [*LOSSES, *(LESS if found.baseline else ())]
    if not found.baseline:
        frame = frame[[c for c in map(str, frame) if "_less" not in c]]
    difference = f"; less: minus {found.baseline}, on the same streams" if found.baseline else ""
    return DataTable(
        frame=with_intervals(frame),
        caption=f"Where each way has learnt {found.learning:.3g} bits/byte{difference}. Moved: "
        "streams of one rate, moved along the curves of the way's other streams",
        units=dict.fromkeys(names, "bits/byte"),
    )
