"""A report's sections on compute: curves, laws, surfaces and what they say of each other."""

import numpy as np
import pandas as pd

from analysis import figures
from analysis.fitting.results import Estimate
from analysis.parametric import ParametricFit
from analysis.report.gallery import Gallery, file_label
from analysis.report.page import Block, Code, DataTable, Section, Text
from analysis.report.tables import params_table
from analysis.study import Study
from analysis.table.load import finished
from analysis.validation.residuals import residuals_of


def isoflop_section(study: Study, gallery: Gallery) -> Section | None:
    """The curves and their minima; None without."""
    fit = study.isoflop
    if fit is None:
        return None
    blocks: list[Block] = [
        Text(
            text="Each curve is fitted to the best finished run of each size. A filled star is a "
            "minimum that nothing speaks against, a hollow one is doubtful; its reasons stand in "
            "the summary."
        ),
        gallery.draw(
            "isoflop",
            f"Perplexity against {fit.x_name} at equal training FLOPs",
            lambda: figures.draw_isoflop(study.table, fit),
        ),
        gallery.draw(
            "isoflop_together",
            "The same in one panel, as Fig. 1 of He 2024",
            lambda: figures.draw_isoflop(study.table, fit, together=True),
        ),
    ]
    if fit.method == "parabola":  # interpolation leaves nothing over
        blocks.append(
            gallery.draw(
                "residuals_isoflop",
                "What the curves leave over",
                lambda: figures.draw_residuals(residuals_of(fit, study.table)),
            )
        )
    return Section(title="IsoFLOP curves", blocks=blocks)


def differences_section(study: Study, gallery: Gallery) -> Section | None:
    """Models beside the noise of seeds, budget by budget; None without."""
    if not study.differences:
        return None
    blocks: list[Block] = [
        Text(
            text="A difference whose interval holds 0 is none. Intervals are of one difference "
            "each, not of all together, and take the noise to be the same in all models."
        )
    ]
    for budget, found in study.differences.items():
        caption = (
            f"C = {budget:.4g} FLOPs: mean loss over seeds, each model at its size with the most, "
            f"and its difference from {found.baseline}'s with its {found.level:.0%} interval. One "
            f"run's loss varies by {found.noise.sd:.4f} nats/token (standard deviation over seeds, "
            f"{found.noise.dof} degrees of freedom)"
        )
        blocks.append(_differences_table(found.to_frame(), found.baseline, caption))
        averaged = study.differences_over_sizes.get(budget)
        if averaged is not None and averaged.average:
            caption = (
                f"C = {budget:.4g} FLOPs: the same difference on the average of "
                f"{len(averaged.parts)} sizes, with the noise of those that have several seeds"
            )
            blocks.append(_differences_table(averaged.average_frame(), found.baseline, caption))
    return Section(title="Differences and seeds", blocks=blocks)


def _differences_table(frame: pd.DataFrame, baseline: str, caption: str) -> DataTable:
    signed = (f"minus {baseline}", "lower", "upper")
    return DataTable(
        frame=frame,
        caption=caption,
        units=dict.fromkeys((n for n in ("loss", "sd", *signed) if n in frame), "nats/token"),
        formats=dict.fromkeys(signed, "+.4f"),
    )


def seconds_section(study: Study, gallery: Gallery) -> Section | None:
    """The same curves against time; None where rates are not recorded or budgets unknown."""
    done = finished(study.table)
    if done["tokens_per_second"].isna().all() or done["budget"].isna().any():
        return None
    drawing = gallery.draw(
        "seconds",
        "Perplexity against seconds of training on the machine that the runs were made on",
        lambda: figures.draw_seconds(study.table),
    )
    return Section(title="Wall-clock time", blocks=[drawing])


def laws_section(study: Study, gallery: Gallery) -> Section | None:
    """How the minima move with compute; None without."""
    fit = study.isoflop
    if fit is None or not fit.laws:
        return None
    rows = []
    for law in fit.laws:
        for name, intervals in law.exponents.items():
            found = law.laws[name]
            floored = "E" in found.params
            coefficient = found.params["A" if floored else "coefficient"]
            rows.append(
                {
                    "model": law.model,
                    "quantity": f"{name}*",
                    "coefficient": coefficient,
                    "exponent": intervals["t"].value * (-1 if floored else 1),
                    **{how: _between(e, -1 if floored else 1) for how, e in intervals.items()},
                    "floor": found.params.get("E", np.nan),
                    "budgets": law.n_budgets,
                    "status": str(law.status),
                }
            )
    table = DataTable(
        frame=pd.DataFrame(rows),
        caption="Exponents of compute, floor + coefficient C^exponent, and their 95 % intervals "
        "made up to four ways: t holds the misfit of the law, noise only that of the losses",
        formats={"coefficient": ".4g", "exponent": ".4f"},
    )
    blocks: list[Block] = [
        table,
        gallery.draw(
            "laws", "The optimum against compute", lambda: figures.draw_laws(fit, study.table)
        ),
        gallery.draw(
            "frontier",
            "The lowest loss that each budget buys",
            lambda: figures.draw_frontier(study.table, fit),
        ),
    ]
    return Section(title="Laws of compute", blocks=blocks)


def _between(interval: Estimate, sign: int) -> str:
    low, high = sorted((sign * interval.lower, sign * interval.upper))
    return f"{low:.4f} to {high:.4f}" if np.isfinite(low) else ""


def parametric_section(study: Study, gallery: Gallery) -> Section | None:
    """L(N, D) of each model; None without."""
    if not study.parametric:
        return None
    size = study.x_name if study.x_name != "n_tokens" else "n_params"
    blocks: list[Block] = [Text(text="L = E + A/N^alpha + B/D^beta (approach 3), by model.")]
    frames = [params_table(fit, model) for model, fit in study.parametric.items()]
    blocks.append(DataTable(frame=pd.concat(frames, ignore_index=True), caption="Fitted surfaces"))
    for model, fit in study.parametric.items():
        runs = finished(study.table)
        runs = runs[runs["series"] == model]
        blocks += _of_surface(model, fit, runs, size, gallery)
    return Section(title="Parametric surface", blocks=blocks)


def _of_surface(
    model: str, fit: ParametricFit, runs: pd.DataFrame, size: str, gallery: Gallery
) -> list[Block]:
    label = file_label(model)
    return [
        gallery.draw(
            f"contours_{label}",
            f"{model}: lines of equal loss, the runs and the compute-optimal line",
            lambda: figures.draw_contours(fit, runs, size=size),
        ),
        gallery.draw(
            f"residuals_{label}",
            f"{model}: what the surface leaves over",
            lambda: figures.draw_residuals(residuals_of(fit, runs, size)),
        ),
    ]


def agreement_section(study: Study, gallery: Gallery) -> Section | None:
    """The approaches side by side; None without."""
    found = study.agreement
    if found is None:
        return None
    text = (
        f"a is the exponent of {found.x_name}* in compute; size*, tokens* and loss* are at "
        f"C = {found.budget:.4g} FLOPs, the largest budget."
    )
    table = DataTable(
        frame=found.to_frame(),
        caption="The approaches side by side",
        units={"loss": "nats/token", "tokens": "tokens", "size": "parameters"},
    )
    return Section(title="Do the approaches agree?", blocks=[Text(text=text), table])


def hold_out_section(study: Study, gallery: Gallery) -> Section | None:
    """What small budgets say of large ones; None without."""
    found = study.hold_out
    if found is None:
        return None
    text = (
        f"Laws fitted to the {found.n_fitted} smallest budgets predict the {found.n_held} largest. "
        "An error that grows with the budget says that the law does not extrapolate."
    )
    table = DataTable(
        frame=found.to_frame(), caption="Held-out budgets", formats={"relative_error": "+.2%"}
    )
    return Section(title="Held-out budgets", blocks=[Text(text=text), table])


def multipliers_section(study: Study, gallery: Gallery) -> Section | None:
    """Compute at equal loss; None without."""
    if not study.multipliers:
        return None
    frame = pd.DataFrame(
        [
            {
                "model": model,
                "multiplier": found.multiplier,
                "lower": found.lower,
                "upper": found.upper,
                "alpha": found.alpha,
                "asymptote": found.asymptote,
                "points": found.n_points,
                "status": str(found.status),
            }
            for model, found in study.multipliers.items()
        ]
    )
    text = "How many times its compute the baseline would need for the same loss."
    table = DataTable(frame=frame, caption="Compute multipliers", units={"asymptote": "nats/token"})
    details = [Code(text=found.summary(), caption=m) for m, found in study.multipliers.items()]
    return Section(title="Compute multipliers", blocks=[Text(text=text), table, *details])
