"""How much another size than the best costs: at equal compute, in nats and in compute.

Half the best size at the same compute has twice its tokens: over-training by four, in tokens a
parameter. A flat minimum leaves the choice to what is served best; these are its prices.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.fitting.checks import positive
from analysis.fitting.intervals import Array, Estimate
from analysis.fitting.results import Warned
from analysis.fitting.status import FitError
from analysis.fitting.text import unsaid
from analysis.isoflop.curves import IsoFLOPCurve, IsoFLOPFit
from analysis.isoflop.flags import Flag
from analysis.isoflop.laws import LOSS, ModelLaws
from analysis.isoflop.slices import losses, minima
from analysis.settings import setting

WITHIN = 0.01  # nats/token
FACTORS = (0.5, 2.0)
_OFF = (Flag.MISFIT, Flag.LACK_OF_FIT, Flag.SKEWED)  # flags of a curve that is not the runs'
_STEPS = 400  # places a side between the best size and the farthest that is looked at
_FAR = 64.0  # times the best size
_OFFSETS = np.linspace(0.0, np.log(_FAR), _STEPS)


@dataclass(frozen=True, kw_only=True, repr=False)
class Flatness(Warned):
    """A row a model and budget. size: the best; half, twice: what half and twice of it cost in
    nats/token; low, high: the multiples of it that cost `within` nats (64 at most); below: from
    what size to what size it is below the best loss of the baseline at this budget, nan if it is
    not; *_compute: the share less compute with which the best size loses as much. Intervals at
    95 %, of skewed curves' draws; nan of other methods.

    A size beyond those tried is an extrapolation of the curve; a warning says so, and another where
    the curve does not fit its points. within is nan where it is each curve's own.
    """

    x_name: str
    within: float
    baseline: str | None
    rows: tuple[dict[str, Any], ...]
    warnings: tuple[str, ...]

    def to_frame(self) -> pd.DataFrame:
        return pd.DataFrame(
            [
                {
                    "model": row["model"],
                    "budget": row["budget"],
                    f"{self.x_name}*": row["size"],
                    **row["low"].columns("low"),
                    **row["high"].columns("high"),
                    "within_compute": row["within_compute"],
                    **row["half"].columns("half"),
                    "half_compute": row["half_compute"],
                    **row["twice"].columns("twice"),
                    "twice_compute": row["twice_compute"],
                    **(
                        {"below_from": row["below"][0], "below_to": row["below"][1]}
                        if self.baseline
                        else {}
                    ),
                }
                for row in self.rows
            ]
        )

    def summary(self) -> str:
        lines = [
            f"what other sizes cost at equal compute: {self.x_name}, nats/token with 95 % "
            "intervals, and compute that is worth as much"
        ]
        for row in self.rows:
            ends = f"from {_times(row['low'])} to {_times(row['high'])} times it"
            text = (
                f"{row['model']:>10}  C={row['budget']:.3g}  best {row['size']:.3g}; "
                f"within {row['within']:.3g} nats{_worth(row['within_compute'])} {ends}; "
                f"half {_nats(row['half'])}{_worth(row['half_compute'])}, "
                f"twice {_nats(row['twice'])}{_worth(row['twice_compute'])}"
            )
            if self.baseline and row["model"] != self.baseline:
                start, end = row["below"]
                text += (
                    f"; below the best of {self.baseline} from {start:.3g} to {end:.3g}"
                    if np.isfinite(start)
                    else f"; not below the best of {self.baseline}"
                )
            lines.append(text)
        return "\n".join([*lines, *(f"  warning: {text}" for text in unsaid(self.warnings))])


def _nats(cost: Estimate) -> str:
    known = cost.lower <= cost.upper
    return f"{cost.value:+.3f}" + (f" ({cost.lower:.3f} to {cost.upper:.3f})" if known else "")


def _times(factor: Estimate) -> str:
    known = factor.lower <= factor.upper
    return f"{factor.value:.2g}" + (f" ({factor.lower:.2g} to {factor.upper:.2g})" if known else "")


def _worth(share: float) -> str:
    return f" [{share:.0%} of compute]" if np.isfinite(share) else ""


def compute_flatness(
    fit: IsoFLOPFit,
    *,
    within: float = WITHIN,
    within_compute: float | None = None,
    baseline: str | None = None,
) -> Flatness:
    """Flatness of each curve with a minimum inside its sizes.

    within: nats/token; or within_compute: a share of compute, 0.05 for 5 %, below 1, from which
    each curve's within follows by its model's law of the loss. baseline: a model whose best loss
    the sizes of others are compared with, budget by budget. Raises ValueError for a bad option,
    FitError if no curve has a minimum, or within_compute is asked of models without a law.
    """
    positive("within", within)
    if within_compute is not None:
        positive("within_compute", within_compute)
        if within_compute >= 1:
            raise ValueError(
                f"{setting('within_compute', within_compute)} must be a share below 1, e.g. 0.05"
            )
    curves = [curve for curve in fit.curves if curve.inside]
    if not curves:
        raise FitError(f"no curve has a minimum inside its sizes: {fit.why_no_laws}")
    known = {curve.model for curve in fit.curves}
    if baseline is not None and baseline not in known:
        raise ValueError(
            f"{setting('baseline', baseline)} is not one of {', '.join(sorted(known))}"
        )
    laws = {law.model: law for law in fit.laws}
    best = {curve.budget: curve.loss_opt for curve in curves if curve.model == baseline}
    rows, warnings = [], []
    for curve in curves:
        law = laws.get(curve.model)
        nats = within
        if within_compute is not None:
            if law is None:
                raise FitError(f"within_compute needs a law of the loss: {fit.why_no_laws}")
            nats = _extra_nats(law, curve.budget, within_compute)
        rows.append(_row(curve, law, nats, best.get(curve.budget, np.nan)))
        ends = rows[-1]["low"].value * curve.x_opt, rows[-1]["high"].value * curve.x_opt
        if ends[0] < curve.x_min or ends[1] > curve.x_max:
            warnings.append(
                f"{curve.model} at C={curve.budget:.3g}: sizes within {nats:.3g} nats reach beyond "
                "those tried"
            )
        if off := [text for flag, text in curve.flagged if flag in _OFF]:
            warnings.append(
                f"{curve.model} at C={curve.budget:.3g}: costs are of the curve, and "
                f"{'; '.join(off)}"
            )
    return Flatness(
        x_name=fit.x_name,
        within=within if within_compute is None else float("nan"),
        baseline=baseline,
        rows=tuple(rows),
        warnings=(*fit.of_table, *warnings),
    )


def flatness_if_any(fit: IsoFLOPFit | None, baseline: str) -> Flatness | None:
    """flatness() of the curves with a minimum, beside the baseline if it has one; None without."""
    if fit is None or not any(curve.inside for curve in fit.curves):
        return None
    known = any(curve.model == baseline for curve in fit.curves)
    return compute_flatness(fit, baseline=baseline if known else None)


def _row(curve: IsoFLOPCurve, law: ModelLaws | None, nats: float, below: float) -> dict[str, Any]:
    half, twice = (_cost(curve, factor) for factor in FACTORS)
    low, high = _reach(curve, nats)
    inside = _below(curve, below)
    return {
        "model": curve.model,
        "budget": curve.budget,
        "size": curve.x_opt,
        "within": nats,
        "within_compute": _share(law, curve.budget, nats),
        "low": low,
        "high": high,
        "half": half,
        "half_compute": _share(law, curve.budget, half.value),
        "twice": twice,
        "twice_compute": _share(law, curve.budget, twice.value),
        "below": inside,
    }


def _cost(curve: IsoFLOPCurve, factor: float, level: float = 0.95) -> Estimate:
    """Cost of a multiple of the best size, in nats; each draw's beside its own best size."""
    value = float(curve.loss(curve.x_opt * factor)) - curve.loss_opt
    drawn, lowest = minima(curve.centre, curve.draws)
    kept = np.isfinite(drawn)
    at = losses(curve.centre, curve.draws[kept], drawn[kept, None] + np.log(factor))[:, 0]
    return Estimate.of_draws(value, at - lowest[kept], level)


def _reach(curve: IsoFLOPCurve, nats: float) -> tuple[Estimate, Estimate]:
    """How many times smaller and larger sizes cost so many nats; at most 64 times."""
    found = []
    drawn, lowest = minima(curve.centre, curve.draws)
    kept = np.isfinite(drawn)
    for sign in (-1.0, 1.0):
        drawn_losses = losses(curve.centre, curve.draws[kept], drawn[kept, None] + sign * _OFFSETS)
        ends = sign * _crossings(drawn_losses - lowest[kept, None], nats)
        found.append(Estimate.of_draws(_own_reach(curve, nats, sign), np.exp(ends)))
    return found[0], found[1]


def _own_reach(curve: IsoFLOPCurve, nats: float, sign: float) -> float:
    """Same of the curve itself, on the side of larger sizes (1) or smaller ones (-1)."""
    own = np.asarray(curve.loss(curve.x_opt * np.exp(sign * _OFFSETS))) - curve.loss_opt
    return float(np.exp(sign * _crossings(own[None], nats)[0]))


def _crossings(costs: Array, nats: float) -> Array:
    """Where each row of costs at _OFFSETS, which rise from 0, comes to so many nats: by straight
    lines between them, and the last one if it doesn't.
    """
    rising = np.maximum.accumulate(np.where(np.isnan(costs), np.inf, costs), axis=1)
    last = len(_OFFSETS) - 1
    i = np.clip((rising <= nats).sum(axis=1) - 1, 0, last - 1)
    rows = np.arange(len(rising))
    before, after = rising[rows, i], rising[rows, i + 1]
    with np.errstate(divide="ignore", invalid="ignore"):  # of two that are equal, and not between
        slope = (_OFFSETS[i + 1] - _OFFSETS[i]) / (after - before)
        between = _OFFSETS[i] + slope * (nats - before)
    return np.where(after <= nats, _OFFSETS[last], np.where(nats < before, _OFFSETS[0], between))


def _below(curve: IsoFLOPCurve, loss: float) -> tuple[float, float]:
    """Sizes whose loss is below this one; nan if the best is not."""
    if not curve.loss_opt < loss:
        return float("nan"), float("nan")
    low, high = (_own_reach(curve, loss - curve.loss_opt, sign) for sign in (-1.0, 1.0))
    return low * curve.x_opt, high * curve.x_opt


def _share(law: ModelLaws | None, budget: float, nats: float) -> float:
    """Share less compute with which the best size loses so many nats; nan without a law.

    By the law: C' with L(C') = L(C) + nats, and 1 - C'/C.
    """
    if law is None or law.loss is None:
        return float("nan")
    less = np.geomspace(budget / 1e3, budget, 3000)
    lost = law.loss.predict(less).value - float(law.loss.predict(budget).value[0])
    if not lost[0] > nats:
        return float("nan")
    return float(1 - np.exp(np.interp(-nats, -lost, np.log(less))) / budget)


def _extra_nats(law: ModelLaws, budget: float, share: float) -> float:
    """Worth of a share of compute at a budget, in nats: L((1 - share) C) - L(C)."""
    if law.loss is None:
        raise FitError(f"{law.model} has no law of {LOSS}")
    near = law.loss.predict(np.array([(1 - share) * budget, budget])).value
    return float(near[0] - near[1])


def extra_cost(fit: IsoFLOPFit, model: str, factor: float, level: float = 0.95) -> Estimate | None:
    """Cost of a multiple of the best size, in nats/token.

    By the curve of the model's largest budget that has a minimum; None if none has.
    """
    own = [curve for curve in fit.curves if curve.model == model and curve.inside]
    return _cost(own[-1], factor, level) if own else None
