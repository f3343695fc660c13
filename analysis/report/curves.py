"""A report's section on isoFLOP curves: their minima, how flat they are, and their residuals."""

from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures.isoflop import draw_isoflop
from analysis.figures.plot import Plot
from analysis.figures.residuals import draw_residuals
from analysis.fitting.intervals import Estimate
from analysis.flatness import Flatness
from analysis.isoflop.curves import IsoFLOPFit
from analysis.parametric import ParametricFit
from analysis.report.gallery import Draft, Part
from analysis.report.page import DataTable, Text
from analysis.report.tables import formats_of, units_of
from analysis.study import Study
from analysis.validation.residuals import residuals_of


def isoflop_section(study: Study) -> Draft | None:
    """The curves' minima, and what is left of the runs; None without."""
    fit = study.isoflop
    if fit is None:
        return None
    minima = _minima(fit)
    about = [
        "Each curve is fitted to the best finished run of each size. A minimum with a warning is a "
        "hollow star in the figures.",
        *(f"{text[0].upper()}{text[1:]}." for text in fit.moved),
    ]
    parts: list[Part] = [
        Text(text=" ".join(about)),
        DataTable(
            frame=minima,
            caption="The fitted minimum of each curve, with 95 % intervals",
            units=units_of(minima, study.x_name),
            formats={**formats_of(minima), "perplexity": ".2f"},
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


def _minima(fit: IsoFLOPFit) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "model": c.model,
                "budget": c.budget,
                f"{fit.x_name}*": Estimate(c.x_opt, *c.x_interval),
                "loss*": Estimate(c.loss_opt, *c.loss_interval),
                "perplexity": np.exp(c.loss_opt),
                "sizes": c.n_points,
                "rmse": c.rmse,
                "status": str(c.status),
                "flags": ", ".join(c.flags),
            }
            for c in fit.curves
        ]
    )


def _flatness(found: Flatness) -> DataTable:
    """The cost of other sizes, budget by budget."""
    frame = pd.DataFrame(
        [
            {
                "model": row["model"],
                "budget": row["budget"],
                f"{found.x_name}*": row["size"],
                "from": row["low"],
                "to": row["high"],
                "half the size": row["half"],
                "half, compute": row["half_compute"],
                "twice the size": row["twice"],
                "twice, compute": row["twice_compute"],
            }
            for row in found.rows
        ]
    )
    beyond = f" {len(found.warnings)} reach beyond the sizes tried." if found.warnings else ""
    return DataTable(
        frame=frame,
        caption=f"How flat the minima are, at equal compute: the sizes within {found.within:g} "
        "nats/token as multiples of the best, what half and twice the best size cost, and the "
        f"share of compute without which the best size loses as much.{beyond}",
        units={
            "budget": "FLOPs",
            f"{found.x_name}*": "parameters",
            "half the size": "nats/token",
            "twice the size": "nats/token",
        },
        formats={
            **formats_of(frame),
            **dict.fromkeys(("half, compute", "twice, compute"), ".0%"),
        },
    )


def draw_left(
    fit: IsoFLOPFit | ParametricFit, runs: pd.DataFrame, size: str = "n_params"
) -> Figure:
    return draw_residuals(residuals_of(fit, runs, size))
