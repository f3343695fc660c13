"""A report's section on runs that learnt a stream of domains."""

from functools import partial

from analysis import figures, numbers
from analysis.forgetting import METRICS
from analysis.report.gallery import Draft, Plot
from analysis.report.page import DataTable
from analysis.report.tables import with_intervals
from analysis.study import Study


def forgetting_section(study: Study) -> Draft | None:
    """Ways to go on learning; None without."""
    found = study.forgetting
    if found is None:
        return None
    frame = found.to_frame()
    names = [name.removesuffix("_lower") for name in map(str, frame) if name.endswith("_lower")]
    bounds = {name: (f"{name}_lower", f"{name}_upper") for name in names}
    table = DataTable(
        frame=with_intervals(frame, **bounds),
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
        make=partial(figures.draw_forgetting, found),
    )
    return Draft(title="Learning and forgetting", parts=[table, plot])
