"""The sections of a report: what of a study stands in each, in words, tables and figures."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import pandas as pd
from tqdm import tqdm

from analysis import figures
from analysis.curves import IsoFLOPFit
from analysis.gallery import Gallery
from analysis.page import Block, Code, DataTable, Section, Text, Warnings
from analysis.parametric import ParametricFit
from analysis.residuals import residuals_of
from analysis.results import Estimate, Fit
from analysis.study import Study
from analysis.table import finished

UNITS = {
    "budget": "FLOPs",
    "loss": "nats/token",
    "loss*": "nats/token",
    "perplexity": "per token",
    "n_params": "parameters",
    "n_active_params": "parameters",
    "n_tokens": "tokens",
    "rmse": "nats/token",
    "unevenness": "nats",
    "bits_per_byte": "bits/byte",
    "wall_seconds": "s",
    "held_out_rmse": "nats/token",
    "held_out_bias": "nats/token",
}
_PLAIN = dict.fromkeys(("value", "lower", "upper", "standard error"), ".4g")
_RUN_COLUMNS = (
    "series", "budget", "status", "loss", "perplexity", "n_params", "n_active_params", "n_tokens",
    "n_layers", "d_model", "n_experts", "lr", "seed", "epochs", "usage", "unevenness",
    "wall_seconds", "run_id",
)  # fmt: skip


def sections_of(study: Study, gallery: Gallery) -> list[Section]:
    """Those that the study has something for, in reading order."""
    makers = (
        _summary,
        _isoflop,
        _laws,
        _parametric,
        _agreement,
        _hold_out,
        _experts,
        _active,
        _usage,
        _multipliers,
    )
    steps = tqdm(makers, desc="sections", leave=False, disable=None)  # None: not in a file or pipe
    made = [make(study, gallery) for make in steps]
    return [*(section for section in made if section is not None), _runs(study)]


def _summary(study: Study, gallery: Gallery) -> Section:
    best = _best_runs(study)
    blocks: list[Block] = [
        DataTable(
            frame=best,
            caption="The best finished run of each model and budget, whatever its size: held-out "
            "perplexity per token",
            units={str(name): "FLOPs" for name in best.columns if str(name).startswith("C =")},
            formats={str(name): ".2f" for name in best.columns if name != "series"},
        )
    ]
    if study.isoflop is not None:
        minima = _minima(study.isoflop)
        blocks.append(
            DataTable(
                frame=minima,
                caption="The fitted minimum of each curve, with 95 % intervals",
                units=_units(minima, size=study.x_name),
            )
        )
    blocks.append(Warnings(items=list(_warnings(study))))
    if study.missing:
        lines = "\n\n".join(f"Not fitted: {what}: {why}." for what, why in study.missing)
        blocks.append(Text(text=lines))
    return Section(title="Summary", blocks=blocks)


def _best_runs(study: Study) -> pd.DataFrame:
    """A row a model, a column a budget."""
    done = finished(study.table)
    if done["budget"].isna().all():
        return done.groupby("series", sort=False)[["perplexity"]].min().reset_index()
    wide = done.pivot_table(index="series", columns="budget", values="perplexity", aggfunc="min")
    wide.columns = [f"C = {budget:.4g}" for budget in wide.columns]
    return wide.reset_index()


def _warnings(study: Study) -> Iterator[tuple[str, str]]:
    if study.isoflop is not None:
        for curve in study.isoflop.curves:
            if curve.warnings:
                reasons = "; ".join(curve.warnings)
                yield str(curve.status), f"{curve.model} at C={curve.budget:.3g}: {reasons}"
        for law in study.isoflop.laws:
            if law.warnings:
                yield str(law.status), f"{law.model}, laws: {'; '.join(law.warnings)}"
        yield from (("skipped", text) for text in study.isoflop.skipped)
    for model, fit in study.parametric.items():
        if fit.warnings:
            yield str(fit.status), f"{model}, parametric: {'; '.join(fit.warnings)}"
    for part in (study.agreement, study.hold_out):
        yield from (("doubtful", text) for text in (part.warnings if part else ()))
    for model, comparison in study.experts.items():
        yield from (("doubtful", f"{model}, experts: {text}") for text in comparison.warnings)
    for model, one in study.multipliers.items():
        if one.warnings:
            yield str(one.status), f"{model}, multiplier: {'; '.join(one.warnings)}"
    yield from (("note", text) for text in study.cautions)
    yield from (("note", f"table: {text}") for text in study.table.attrs.get("notes", ()))


def _minima(fit: IsoFLOPFit) -> pd.DataFrame:
    rows = []
    for c in fit.curves:
        rows.append(
            {
                "model": c.model,
                "budget": c.budget,
                f"{fit.x_name}*": c.x_opt,
                "lower": c.x_interval[0],
                "upper": c.x_interval[1],
                "loss*": c.loss_opt,
                "loss lower": c.loss_interval[0],
                "loss upper": c.loss_interval[1],
                "perplexity": np.exp(c.loss_opt),
                "sizes": c.n_points,
                "rmse": c.rmse,
                "status": str(c.status),
                "flags": ", ".join(c.flags),
            }
        )
    return pd.DataFrame(rows)


def _isoflop(study: Study, gallery: Gallery) -> Section | None:
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


def _laws(study: Study, gallery: Gallery) -> Section | None:
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


def _parametric(study: Study, gallery: Gallery) -> Section | None:
    if not study.parametric:
        return None
    size = study.x_name if study.x_name != "n_tokens" else "n_params"
    blocks: list[Block] = [Text(text="L = E + A/N^alpha + B/D^beta (approach 3), by model.")]
    frames = [_params(fit, model) for model, fit in study.parametric.items()]
    blocks.append(DataTable(frame=pd.concat(frames, ignore_index=True), caption="Fitted surfaces"))
    for model, fit in study.parametric.items():
        runs = finished(study.table)
        runs = runs[runs["series"] == model]
        blocks += _of_surface(model, fit, runs, size, gallery)
    return Section(title="Parametric surface", blocks=blocks)


def _of_surface(
    model: str, fit: ParametricFit, runs: pd.DataFrame, size: str, gallery: Gallery
) -> list[Block]:
    label = "".join(c if c.isalnum() else "_" for c in model)
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


def _params(fit: Fit, model: str) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "model": model,
                "parameter": name,
                "value": value,
                "lower": fit.bounds(name)[0],
                "upper": fit.bounds(name)[1],
                "standard error": fit.bse[name],
                "runs": fit.n_points,
                "status": str(fit.status),
            }
            for name, value in fit.params.items()
            if name not in fit.fixed
        ]
    )


def _agreement(study: Study, gallery: Gallery) -> Section | None:
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


def _hold_out(study: Study, gallery: Gallery) -> Section | None:
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


def _experts(study: Study, gallery: Gallery) -> Section | None:
    if not study.experts:
        return None
    blocks: list[Block] = []
    for model, found in study.experts.items():
        best = found.fits[0]
        label = "".join(c if c.isalnum() else "_" for c in model)
        blocks += [
            Text(text=f"{model}: held out: {found.held_out}."),
            DataTable(
                frame=found.to_frame().rename(columns={"n_params": "free parameters"}),
                caption=f"{model}: laws of the number of experts, best AICc first",
                units=dict.fromkeys(("rmse", "held_out_rmse", "held_out_bias"), "nats/token"),
            ),
            DataTable(frame=_params(best, model), caption=f"{model}: {best.form}", formats=_PLAIN),
            DataTable(
                frame=study.slopes[model],
                caption=f"{model}: -d ln L / d ln E of each size, with 95 % t interval",
                units={"size": "parameters", "budget": "FLOPs"},
            ),
            gallery.draw(
                f"experts_{label}",
                f"{model}: perplexity against the number of experts, and the laws",
                partial(figures.draw_experts, study.table, found.fits, study.slopes[model]),
            ),
        ]
        cutoff = best.cutoff_interval()
        if cutoff is not None:
            blocks.append(
                Text(
                    text=f"The size beyond which more experts would cease to help is between "
                    f"{cutoff[0]:.3g} and {cutoff[1]:.3g} parameters (95 %), if the form holds."
                )
            )
    return Section(title="Number of experts", blocks=blocks)


def _active(study: Study, gallery: Gallery) -> Section | None:
    done = finished(study.table).dropna(subset=["n_heads", "top_k"])
    if len(done[["n_heads", "top_k"]].drop_duplicates()) < 2:
        return None
    drawing = gallery.draw(
        "active",
        "Perplexity against heads at equal numbers of active experts, as Fig. 3b of He 2024",
        lambda: figures.draw_active(done),
    )
    return Section(title="Active experts", blocks=[drawing])


def _usage(study: Study, gallery: Gallery) -> Section | None:
    done = finished(study.table).dropna(subset=["usage", "unevenness", "n_experts"])
    if done.empty:
        return None
    keys = ["series", "budget", "n_layers", "n_experts", "query_norm"]
    names = ["perplexity", "usage", "unevenness"]
    means = done.groupby(keys, dropna=False)[names].mean().reset_index()
    blocks: list[Block] = [
        DataTable(
            frame=means,
            caption="Usage: share of experts with weight on the held-out set; unevenness: KL to "
            "uniform. Means over seeds",
            units={k: v for k, v in UNITS.items() if k in means},
        )
    ]
    if done["n_experts"].nunique() > 1 or done["query_norm"].nunique() > 1:
        blocks.append(
            gallery.draw(
                "usage", "Usage, unevenness and perplexity", lambda: figures.draw_usage(done)
            )
        )
    return Section(title="Usage of experts", blocks=blocks)


def _multipliers(study: Study, gallery: Gallery) -> Section | None:
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


def _runs(study: Study) -> Section:
    columns = [c for c in _RUN_COLUMNS if study.table[c].notna().any()]
    frame = study.table[columns]
    table = DataTable(
        frame=frame, caption="Every run, failed ones too", units=_units(frame, study.x_name)
    )
    return Section(title="Runs", blocks=[table])


def _units(frame: pd.DataFrame, size: str) -> dict[str, str]:
    unit = "tokens" if size == "n_tokens" else "parameters"
    own = {f"{size}*": unit, "lower": unit, "upper": unit}
    own |= {"loss lower": "nats/token", "loss upper": "nats/token"}
    return {name: u for name, u in {**UNITS, **own}.items() if name in frame}
