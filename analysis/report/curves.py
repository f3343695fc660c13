"""A report's section on isoFLOP curves: their minima, how flat they are, and their residuals."""

from functools import partial

import pandas as pd
from matplotlib.figure import Figure

from analysis.figures.isoflop import draw_isoflop
from analysis.figures.plot import Plot
from analysis.figures.residuals import draw_residuals
from analysis.flatness import Flatness
from analysis.isoflop.curves import IsoFLOPFit
from analysis.parametric import ParametricFit
from analysis.report.gallery import Draft, Part
from analysis.report.page.blocks import DataTable, Text
from analysis.report.tables import read_runs_table, with_intervals
from analysis.study import Study
from analysis.validation.residuals import compute_residuals


def isoflop_section(study: Study) -> Draft | None:
    """Curves' minima, and what is left of the runs; None without."""
    fit = study.isoflop
    if fit is None:
        return None
    about = [
        "Each curve is fitted to the best finished run of each size. A minimum with a warning is a "
        "hollow star in the figures.",
        *(f"{text[0].upper()}{text[1:]}." for text in fit.moved),
        *(f"{c.model} at C={c.budget:.3g}: {c.none}." for c in fit.curves if not c.inside),
    ]
    ends = {f"loss {end}": f"loss*_{end}" for end in ("lower", "upper")}
    parts: list[Part] = [
        Text(text=" ".join(about)),
        read_runs_table(
            with_intervals(fit.to_frame().rename(columns=ends), f"{fit.x_name}*", "loss*"),
            "The fitted minimum of each curve, with 95 % intervals",
            units=_find_unit(fit.x_name),
            formats={"perplexity": ".2f"},
        ),
        Plot(
            name="isoflop_together",
            caption="All budgets in one panel, as Fig. 1 of He 2024",
            make=partial(draw_isoflop, study.at_budgets, fit, together=True),
        ),
    ]
    if study.flatness is not None:
        parts.append(_flatness(study.flatness))
    if fit.method != "akima":  # interpolation has no residuals
        parts.append(
            Plot(
                name="residuals_isoflop",
                caption="Residuals of the curves",
                make=partial(draw_left, fit, study.table),
            )
        )
    return Draft(title="IsoFLOP curves", parts=parts)


def _find_unit(size: str) -> dict[str, str]:
    return {f"{size}*": "tokens" if size == "n_tokens" else "parameters"}


def _flatness(found: Flatness) -> DataTable:
    names = {
        "low": "from",
        "high": "to",
        "half": "half the size",
        "half_compute": "half, compute",
        "twice": "twice the size",
        "twice_compute": "twice, compute",
    }
    frame = with_intervals(found.to_frame())
    frame = frame[["model", "budget", f"{found.x_name}*", *names]].rename(columns=names)
    beyond = f" {len(found.warnings)} reach beyond the sizes tried." if found.warnings else ""
    return read_runs_table(
        frame,
        f"How flat the minima are, at equal compute: the sizes within {found.within:g} "
        "nats/token as multiples of the best, what half and twice the best size cost, and the "
        f"share of compute without which the best size loses as much.{beyond}",
        units={
            **_find_unit(found.x_name),
            "half the size": "nats/token",
            "twice the size": "nats/token",
        },
        formats=dict.fromkeys(("half, compute", "twice, compute"), ".0%"),
    )


def draw_left(
    fit: IsoFLOPFit | ParametricFit, runs: pd.DataFrame, size: str = "n_params"
) -> Figure:
    return draw_residuals(compute_residuals(fit, runs, size))
