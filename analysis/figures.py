"""Figures take results and return a Figure; they neither fit nor read files."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from analysis.results import FitStatus, IsoFLOPCurve, IsoFLOPFit

AXIS_LABELS = {
    "n_params": "total parameters",
    "n_active_params": "active parameters",
    "n_non_embedding_params": "non-embedding parameters",
    "n_tokens": "training tokens",
}
MODEL_ORDER = ("dense", "none", "moe", "moe_fine", "pkm", "peer")  # others follow by name


def model_colours(models: Sequence[str]) -> dict[str, tuple[float, float, float]]:
    """A colour-blind safe colour for each model, the same in every figure."""
    others = sorted(set(models) - set(MODEL_ORDER))
    palette = sns.color_palette("colorblind", len(MODEL_ORDER) + len(others))
    return dict(zip([*MODEL_ORDER, *others], palette, strict=True))


def draw_isoflop(table: pd.DataFrame, fit: IsoFLOPFit) -> Figure:
    """Perplexity against size, a panel for each budget, a colour for each model.

    Points are runs (the best of a cell fitted, all drawn), lines the fitted parabolas over their
    points' range, stars their minima: filled if nothing speaks against them, hollow if doubtful.
    """
    done = table[table["status"] == "done"]
    budgets = sorted(done["budget"].unique())
    models = [m for m in model_colours(done["model"].unique().tolist()) if m in set(done["model"])]
    colours = model_colours(models)
    with sns.axes_style("whitegrid"), plt.rc_context({"font.size": 10}):
        figure, axes = plt.subplots(
            1,
            len(budgets),
            figsize=(1.2 + 3.9 * len(budgets), 4.2),
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        for axis, budget in zip(axes[0], budgets, strict=True):
            runs = done[done["budget"] == budget]
            sns.scatterplot(
                runs,
                x=fit.x_name,
                y="perplexity",
                hue="model",
                palette=colours,
                s=28,
                linewidth=0.4,
                legend=False,
                ax=axis,
            )
            for curve in fit.curves:
                if curve.budget == budget:
                    _draw_curve(axis, curve, colours[curve.model])
            _label(axis, fit.x_name, f"{_flops(budget)} training FLOPs")
        axes[0][0].set_ylabel("held-out perplexity per token (log)")
        figure.legend(
            handles=_legend(models, colours, fit), loc="outside right upper", frameon=False
        )
    return figure


def _draw_curve(axis: Axes, curve: IsoFLOPCurve, colour: tuple[float, float, float]) -> None:
    grid = np.geomspace(curve.x_min, curve.x_max, 200)
    certain = curve.status is FitStatus.CONVERGED
    axis.plot(
        grid, np.exp(curve.predict(grid)), color=colour, lw=1.4, ls="-" if certain else (0, (4, 2))
    )
    if curve.x_min <= curve.x_opt <= curve.x_max:
        axis.plot(
            curve.x_opt,
            np.exp(curve.loss_opt),
            marker="*",
            ms=13,
            mec=colour if not certain else "black",
            mfc=colour if certain else "white",
            mew=0.8,
            ls="",
        )


def _label(axis: Axes, x_name: str, title: str) -> None:
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel(f"{AXIS_LABELS[x_name]} (log)")
    axis.set_title(title, fontsize=10)
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 7)))
    axis.yaxis.set_major_formatter(plain)
    axis.yaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_minor_formatter(NullFormatter())


def _flops(budget: float) -> str:
    mantissa, exponent = f"{budget:.2e}".split("e")
    return f"${float(mantissa):g}\\times10^{{{int(exponent)}}}$"


def _legend(
    models: Sequence[str], colours: dict[str, tuple[float, float, float]], fit: IsoFLOPFit
) -> list[Line2D]:
    handles = [Line2D([], [], color=colours[m], marker="o", ms=5, lw=1.4, label=m) for m in models]
    handles += [Line2D([], [], marker="*", ms=11, mfc="grey", mec="black", ls="", label="minimum")]
    if fit.status is not FitStatus.CONVERGED:
        handles += [
            Line2D([], [], marker="*", ms=11, mfc="white", mec="grey", ls="", label="doubtful")
        ]
    return handles
