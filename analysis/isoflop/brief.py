"""Minima of an isoFLOP fit as a short table, for the end of a sweep."""

import numpy as np

from analysis.isoflop.curves import IsoFLOPFit
from analysis.isoflop.left_out import outliers_in
from experiments.system.text_table import aligned, count


def brief(fit: IsoFLOPFit) -> str:
    """A line a curve: the lowest loss of the fitted curve, where it is, and its warnings' names.

    The lowest of each budget has a star. A curve without a minimum has dashes.
    """
    best = {
        budget: min((c.loss_opt for c in fit.curves if c.budget == budget and c.inside), default=0)
        for budget in {c.budget for c in fit.curves}
    }
    rows = [["FLOPs", "model", "loss*", "perplexity*", f"{fit.x_name}*", "of sizes", "warnings"]]
    for c in sorted(fit.curves, key=lambda c: c.budget):
        star = "*" if c.loss_opt == best[c.budget] else " "
        found = np.isfinite(c.loss_opt)
        rows.append(
            [
                f"{c.budget:.3g}",
                c.model,
                f"{c.loss_opt:.3f}{star}" if found else "- ",
                f"{np.exp(c.loss_opt):.1f}" if found else "-",
                count(c.x_opt) if found else "-",
                f"{count(c.x_min)} to {count(c.x_max)}",
                ", ".join(c.flags) or "none",
            ]
        )
    lines = aligned([row[:-1] for row in rows], n_left=2)
    text = [f"{line}  {row[-1]}" for line, row in zip(lines, rows)]
    return "\n".join(
        [*text, *(f"skipped: {why}" for why in fit.skipped), *outliers_in(fit.outliers)]
    )
