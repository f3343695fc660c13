"""A report's sections on compute: laws, surfaces and what they say of each other."""

from functools import partial

import pandas as pd

from analysis import numbers
from analysis.figures.laws import draw_laws
from analysis.figures.multipliers import draw_forest, draw_multipliers
from analysis.figures.parametric import draw_contours
from analysis.figures.plot import Plot
from analysis.fitting.intervals import Estimate
from analysis.parametric import ParametricFit
from analysis.report.curves import draw_left
from analysis.report.gallery import Draft, Part, file_label
from analysis.report.page.blocks import DataTable, Text
from analysis.report.tables import (
    budget_column,
    by_budget,
    params_table,
    read_runs_table,
    with_intervals,
)
from analysis.study import Study
from analysis.table.load import finished


def differences_section(study: Study) -> Draft | None:
    """Means that the differences are of, and the same over sizes; None without."""
    if not study.differences:
        return None
    first = next(iter(study.differences.values()))
    noises = "; ".join(
        f"{found.noise.sd:.4f} at {numbers.flops(budget)} FLOPs "
        f"({found.noise.dof} degrees of freedom)"
        for budget, found in study.differences.items()
    )
    means = pd.concat(
        [
            found.to_frame()
            .drop(columns=[f"minus {found.baseline}", "lower", "upper"])
            .assign(budget=budget)
            for budget, found in study.differences.items()
        ],
        ignore_index=True,
    )
    means = means[["budget", *(name for name in means if name != "budget")]]
    parts: list[Part] = [
        Text(
            text="Intervals are of one difference each, not of all together. One run's loss varies "
            f"by (standard deviation over seeds, nats/token): {noises}."
        ),
        read_runs_table(
            means,
            "Mean loss over seeds, each model at its size with the most seeds",
            formats={"perplexity": ".2f", "loss": ".3f", "sd": ".4f"},
        ),
    ]
    over_sizes = {
        budget: dict(sorted(found.average.items(), key=lambda item: item[1].value))
        for budget, found in study.differences_over_sizes.items()
        if found.average
    }
    if over_sizes:
        parts.append(
            DataTable(
                frame=by_budget(over_sizes),
                caption=f"Loss minus that of {first.baseline} on the average of all sizes, in "
                "nats/token, with the noise of the sizes that have several seeds. Bold: the lowest",
                best=dict.fromkeys(map(budget_column, over_sizes), "min"),
            )
        )
    return Draft(title="Differences and seeds", parts=parts)


def laws_section(study: Study) -> Draft | None:
    """How the minima move with compute; None without."""
    fit = study.isoflop
    if fit is None or not fit.laws:
        return None
    rows = []
    for law in fit.laws:
        for name, found in law.laws.items():
            intervals = law.of_compute(name)
            rows.append(
                {
                    "model": law.model,
                    "quantity": f"{name}*",
                    "coefficient": found.coefficient,
                    "exponent": intervals.pop("t"),
                    **{f"by {how}": _between(e) for how, e in intervals.items()},
                    "floor": found.floor,
                    "budgets": law.n_budgets,
                    "status": str(law.status),
                }
            )
    table = DataTable(
        frame=pd.DataFrame(rows),
        caption="Exponents of compute, floor + coefficient C^exponent, with 95 % intervals made up "
        "to four ways: first by t, with the misfit of the law, by the noise of the losses alone, "
        "by which runs were made (case), by leaving out budgets (jackknife)",
    )
    parts: list[Part] = [
        table,
        Plot(
            name="laws",
            caption="The optimum against compute",
            make=partial(draw_laws, fit, study.at_budgets),
        ),
    ]
    return Draft(title="Laws of compute", parts=parts)


def _between(exponent: Estimate) -> str:
    """Interval alone: the value is that of the law."""
    shown = numbers.with_interval(*exponent)
    return shown[shown.index("(") + 1 : -1] if "(" in shown else ""


def parametric_section(study: Study) -> Draft | None:
    """L(N, D) of each model; None without."""
    if not study.parametric:
        return None
    size = study.x_name if study.x_name != "n_tokens" else "n_params"
    parts: list[Part] = [Text(text="L = E + A/N^alpha + B/D^beta (approach 3), by model.")]
    frames = [params_table(fit, model) for model, fit in study.parametric.items()]
    parts.append(DataTable(frame=pd.concat(frames, ignore_index=True), caption="Fitted surfaces"))
    for model, fit in study.parametric.items():
        runs = finished(study.table)
        runs = runs[runs["series"] == model]
        parts += _of_surface(model, fit, runs, size)
    parts += _robustness(study)
    return Draft(title="Parametric surface", parts=parts)


def _robustness(study: Study) -> list[Part]:
    """Surface of one model without the runs that move it, and other surfaces."""
    parts: list[Part] = []
    for model, influence in study.influences.items():
        frame = influence.to_frame()
        moved = with_intervals(
            frame[frame["outside"]][["parameter", "before", "after", "lower", "upper"]], "after"
        ).rename(columns={"before": "all runs", "after": "without them"})
        what = f"the {influence.n_out} of {influence.fit.n_points} runs that it depends on most"
        if moved.empty:
            parts.append(
                Text(
                    text=f"{model}: without {what}, each parameter of the surface stays within its "
                    "95 % interval."
                )
            )
        else:
            caption = (
                f"{model}: parameters that leave their 95 % interval without {what}. They say what "
                "these runs say, not what the rest does"
            )
            parts.append(DataTable(frame=moved, caption=caption))
    for model, compared in study.surfaces.items():
        best = compared.surfaces[0]
        parts.append(
            read_runs_table(
                compared.to_frame().rename(columns={"n_params": "free parameters"}),
                f"{model}: surfaces fitted without the {compared.n_held} runs of "
                f"{compared.held_out}, which {best.form_name} predicts best",
                best={"held_out_rmse": "min"},
            )
        )
    return parts


def _of_surface(model: str, fit: ParametricFit, runs: pd.DataFrame, size: str) -> list[Part]:
    label = file_label(model)
    return [
        Plot(
            name=f"contours_{label}",
            caption=f"{model}: lines of equal loss, the runs and the compute-optimal line",
            make=partial(draw_contours, fit, runs, size=size),
        ),
        Plot(
            name=f"residuals_{label}",
            caption=f"{model}: residuals of the surface",
            make=partial(draw_left, fit, runs, size),
        ),
    ]


def agreement_section(study: Study) -> Draft | None:
    """Approaches side by side; None without."""
    found = study.agreement
    if found is None:
        return None
    text = (
        f"a is the exponent of {found.x_name}* in compute; size*, tokens* and loss* are at "
        f"{numbers.flops(found.budget)} FLOPs, the largest budget."
    )
    table = read_runs_table(
        with_intervals(found.to_frame()),
        "The approaches side by side, with 95 % intervals",
        formats={"loss": ".3f"},
    )
    return Draft(title="Do the approaches agree?", parts=[Text(text=text), table])


def hold_out_section(study: Study) -> Draft | None:
    """Section on what small budgets say of large ones; None without."""
    found = study.hold_out
    if found is None:
        return None
    text = (
        f"Laws fitted to the {found.n_fitted} smallest budgets predict the {found.n_held} largest. "
        "An error that grows with the budget means that the law does not extrapolate."
    )
    table = read_runs_table(
        with_intervals(found.to_frame(), "predicted"),
        "Held-out budgets: predictions with 95 % intervals, and what was measured",
        formats={"relative_error": "+.2%", "p_value": ".3f"},
    )
    return Draft(title="Held-out budgets", parts=[Text(text=text), table])


def multipliers_section(study: Study) -> Draft | None:
    """Compute at equal loss over compute and over loss, by a law of each model; None without."""
    found = study.multipliers
    if found is None:
        return None
    stated = found.some_budgets()
    at = {m: [found.at_compute(m, budget) for budget in stated] for m in found.models}
    frame = pd.DataFrame(
        [
            {
                "model": model,
                **{budget_column(c): one.estimate for c, one in zip(stated, rows, strict=True)},
                "beyond budgets": ", ".join(
                    numbers.flops(c)
                    for c, one in zip(stated, rows, strict=True)
                    if one.extrapolated
                ),
                **({"with one alpha": found.with_one[model]} if found.with_one else {}),
                "alpha": found.alphas[model],
            }
            for model, rows in at.items()
        ]
    )
    low, high = found.asymptotes
    spread = [max(one.most / one.least for one in rows) for rows in at.values()]
    how = "fitted to all models together" if found.estimated else "as was given"
    text = (
        f"How many times a model's compute {found.baseline} needs for the loss that the model has "
        "there. The law of each is L = E + A C^-alpha, of the minima of its curves. E is "
        f"{how}: {found.asymptote:.3g} nats/token"
        + (
            f", and {low:.3g} to {high:.3g} fit as well. Over that range a multiplier of the table "
            f"changes by {max(spread) - 1:.1%} at most"
            if high > low
            else ""
        )
        + f". Intervals are of the points' distance from the laws, {found.noise:.3g} nats with "
        f"{found.dof} degrees of freedom, and of every such E. alpha of {found.baseline}: "
        f"{found.alphas[found.baseline]:.4f}."
        + (
            f" One alpha for all is {'' if found.p_equal < 0.05 else 'not '}excluded by an F test "
            f"(p = {found.p_equal:.3f})."
            if found.with_one
            else ""
        )
    )
    table = DataTable(
        frame=frame,
        caption=f"Compute multipliers over {found.baseline} by laws of compute, with "
        f"{found.level:.0%} intervals. Bold: the highest",
        formats={"alpha": ".4f"},
        best=dict.fromkeys(map(budget_column, stated), "max"),
    )
    plots = [
        Plot(
            name="forest",
            caption="The same as a forest plot. A hollow point needs a law beyond its budgets",
            make=partial(draw_forest, found),
        ),
        Plot(
            name="multipliers",
            caption="Compute multipliers over compute and over loss, where both laws have runs",
            make=partial(draw_multipliers, found),
        ),
    ]
    return Draft(title="Compute multipliers by a law", parts=[Text(text=text), table, *plots])
