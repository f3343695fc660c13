"""Lead of a report: how the models differ, the curves, the frontier and the warnings."""

from functools import partial

from analysis import numbers
from analysis.differences.models import Differences
from analysis.figures.isoflop import draw_isoflop
from analysis.figures.laws import draw_frontier
from analysis.figures.plot import Plot
from analysis.figures.scales import LABELS
from analysis.fitting.text import join_first
from analysis.report.gallery import Draft, Part
from analysis.report.page.blocks import Block, DataTable, Text
from analysis.report.tables import budget_column, by_budget
from analysis.report.warnings import by_cause, list_warnings
from analysis.study import Study
from analysis.table.load import best_of_cells, finished
from analysis.table.merged import find_merged


def answer_section(study: Study) -> Draft:
    """Tables and figures that answer what the sweep asks, and all warnings, folded."""
    parts: list[Part] = [*_differences(study), *_figures(study)]
    parts.append(by_cause(list_warnings(study)))
    if study.missing:
        lines = "\n\n".join(f"Not fitted: {what}: {why}." for what, why in study.missing)
        parts.append(Text(text=lines))
    return Draft(title="Answer", parts=parts)


def _differences(study: Study) -> list[Block]:
    """Differences and multipliers where there are seeds, else the best perplexities."""
    if not study.differences:
        return [_best_sizes(study)]
    first = next(iter(study.differences.values()))
    blocks: list[Block] = [
        Text(text="\n\n".join(_in_words(found) for found in study.differences.values())),
        DataTable(
            frame=by_budget(
                {
                    budget: {
                        m.model: m.difference for m in found.means if m.model != found.baseline
                    }
                    for budget, found in study.differences.items()
                }
            ),
            caption=f"Mean loss minus that of {first.baseline}, in nats/token, with "
            f"{first.level:.0%} intervals by the noise over seeds of all models. A difference "
            "whose interval holds 0 is not significant. Bold: the lowest",
            best=dict.fromkeys(map(budget_column, study.differences), "min"),
        ),
    ]
    factors = study.budget_multipliers
    if factors is not None:
        blocks.append(
            DataTable(
                frame=by_budget(factors.factors),
                caption=f"Compute multipliers: how many times each budget {factors.baseline} needs "
                f"for the loss that the model has there, with {factors.level:.0%} intervals by the "
                "same noise. "
                f"The losses of {factors.baseline} are joined by straight lines in ln C. Bold: the "
                "highest",
                best=dict.fromkeys(map(budget_column, factors.factors), "max"),
            )
        )
    return blocks


def _in_words(found: Differences) -> str:
    """Who is significantly below and above the baseline at a budget, and who is neither."""
    others = [m for m in found.means if m.model != found.baseline]
    lower = [m.model for m in others if m.difference.upper < 0]
    higher = [m.model for m in others if m.difference.lower > 0]
    same = [m.model for m in others if m.model not in (*lower, *higher)]
    parts = [
        f"{what} than {found.baseline}: {join_first(names, 8)}"
        for what, names in (("significantly lower", lower), ("significantly higher", higher))
        if names
    ]
    if same:
        parts.append(f"not significantly different: {join_first(same, 8)}")
    return f"At {numbers.flops(found.budget)} FLOPs, loss {'; '.join(parts)}."


def _figures(study: Study) -> list[Plot]:
    fit = study.isoflop
    if fit is None:
        return []
    isoflop = Plot(
        name="isoflop",
        caption=f"Perplexity against {LABELS[fit.x_name]} at equal training FLOPs. A hollow star "
        "has a warning",
        make=partial(draw_isoflop, study.at_budgets, fit),
    )
    if not fit.laws:
        return [isoflop]
    frontier = Plot(
        name="frontier",
        caption="The lowest loss that each budget buys",
        make=partial(draw_frontier, study.at_budgets, fit),
    )
    return [isoflop, frontier]


def _best_sizes(study: Study) -> DataTable:
    """A row a model, a column a budget."""
    done = finished(study.at_budgets)
    size = "n_params" if done["n_params"].notna().all() else "n_active_params"
    cells = best_of_cells(done, by=["series", "budget", size])
    merged = find_merged(study.table)
    over = f", {merged.how}" if merged else ""
    caption = "The best size of each model: held-out perplexity per token, of the mean loss over "
    if done["budget"].isna().all():
        frame = cells.groupby("series", sort=False)[["perplexity"]].min().reset_index()
    else:
        frame = cells.pivot_table(
            index="series", columns="budget", values="perplexity", aggfunc="min"
        )
        frame.columns = [budget_column(float(budget)) for budget in frame.columns]
        frame = frame.reset_index()
    columns = [str(name) for name in frame.columns if name != "series"]
    return DataTable(
        frame=frame.sort_values(columns[::-1], ignore_index=True),
        caption=f"{caption}seeds{over}. Bold: the lowest",
        formats=dict.fromkeys(columns, ".2f"),
        best=dict.fromkeys(columns, "min"),
    )
