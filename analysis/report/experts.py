"""A report's sections on experts: laws of their number, active ones, and their usage."""

import math
from functools import partial

from analysis import numbers
from analysis.experts.compare import LawComparison
from analysis.figures.experts import draw_experts
from analysis.figures.plot import Plot
from analysis.figures.retrieval import draw_active, draw_usage
from analysis.report.gallery import Draft, Part, file_label
from analysis.report.page.blocks import DataTable, Text
from analysis.report.tables import params_table, read_runs_table, with_intervals
from analysis.study import Study
from analysis.table.load import finished


def experts_section(study: Study) -> Draft | None:
    """Laws of each model with several numbers of experts; None without."""
    if not study.experts:
        return None
    parts: list[Part] = []
    for model, found in study.experts.items():
        best = found.fits[0]
        label = file_label(model)
        parts += [
            Text(text=f"{model}: held out: {found.held_out}."),
            read_runs_table(
                found.to_frame().rename(columns={"n_params": "free parameters"}),
                f"{model}: laws of the number of experts, by AICc. Bold: the lowest",
                best=dict.fromkeys(("rmse", "aicc", "held_out_rmse"), "min"),
            ),
            *_what_holds(found, model),
            read_runs_table(
                with_intervals(study.slopes[model], "slope"),
                f"{model}: -d ln L / d ln E of each size, with 95 % t interval",
                formats={"size": numbers.count},
            ),
            Plot(
                name=f"experts_{label}",
                caption=f"{model}: perplexity against the number of experts, and the laws",
                make=partial(
                    draw_experts, study.expert_runs[model], found.fits, study.slopes[model]
                ),
            ),
        ]
        cutoff = best.cutoff_interval() if len(found.possible) == 1 else None
        if cutoff is not None and math.isfinite(cutoff[0]):
            parts.append(
                Text(
                    text="The size beyond which more experts no longer help is between "
                    f"{numbers.count(cutoff[0])} and {numbers.count(cutoff[1])} parameters (95 %), "
                    "if the form holds."
                )
            )
    return Draft(title="Number of experts", parts=parts)


def _what_holds(found: LawComparison, model: str) -> list[Part]:
    """Parameters of the one law that is not excluded; else which are not, and their mean."""
    beyond = found.over_experts()
    parts: list[Part] = []
    if len(found.possible) > 1:
        none = "No one of them is the law, so the parameters of none are shown."
        parts.append(Text(text=f"{model}: these runs exclude none of {found.in_words}. {none}"))
    else:
        best = found.fits[0]
        parts.append(DataTable(frame=params_table(best, model), caption=f"{model}: {best.form}"))
    if len(beyond):
        caption = f"{model}: loss by {found.by}, averaged, with 95 % intervals: at the most "
        parts.append(
            DataTable(
                frame=beyond,
                caption=f"{caption}experts tried and at four times as many",
                formats={"size": numbers.count},
            )
        )
    return parts


def active_section(study: Study) -> Draft | None:
    """Heads at equal numbers of active experts, Fig. 3b of He 2024; None if not varied."""
    done = finished(study.table).dropna(subset=["n_heads", "top_k"])
    if len(done[["n_heads", "top_k"]].drop_duplicates()) < 2:
        return None
    plot = Plot(
        name="active",
        caption="Perplexity against heads at equal numbers of active experts, as Fig. 3b of "
        "He 2024",
        make=partial(draw_active, done),
    )
    return Draft(title="Active experts", parts=[plot])


def usage_section(study: Study) -> Draft | None:
    """Usage and unevenness, Table 2 of He 2024; None where not recorded."""
    done = finished(study.table).dropna(subset=["usage", "unevenness", "n_experts"])
    if done.empty:
        return None
    keys = ["series", "budget", "n_layers", "n_experts"]
    names = ["perplexity", "usage", "unevenness"]
    means = done.groupby(keys, dropna=False)[names].mean().reset_index()
    parts: list[Part] = [
        read_runs_table(
            means,
            "Usage: share of experts with weight on the held-out set; unevenness: KL to uniform. "
            "Means over seeds",
            formats={"perplexity": ".2f", "usage": ".1%", "unevenness": ".3f"},
        )
    ]
    if done.groupby("model")["series"].nunique().max() > 1 or done["n_experts"].nunique() > 1:
        parts.append(
            Plot(
                name="usage",
                caption="Usage, unevenness and perplexity",
                make=partial(draw_usage, done),
            )
        )
    return Draft(title="Usage of experts", parts=parts)
