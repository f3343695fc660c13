"""Laws of experts side by side: by AICc on all runs, and by what they say of runs held out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis.experts import (
    BACKBONE,
    ExpertLawFit,
    FormName,
    backbone_params,
    fit_expert_law,
)
from analysis.results import FitError, FitStatus, plain
from analysis.table import best_of_cells, finished

HoldOut = Literal["size", "experts", "budget"]
DEFAULT_FORMS: tuple[FormName, ...] = ("loglinear", "power_floor", "clark", "clark_floor")


@dataclass(frozen=True, kw_only=True)
class ComparedLaw:
    """One form: rmse and held_out_rmse in nats/token, bias = mean of predicted - measured."""

    form_name: str
    n_params: int
    rmse: float
    aicc: float
    delta_aicc: float
    held_out_rmse: float
    held_out_bias: float
    status: FitStatus
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class LawComparison:
    """The forms in order of AICc; held_out says which runs were left out for held_out_rmse."""

    model: str
    n_points: int
    held_out: str
    laws: tuple[ComparedLaw, ...]
    fits: tuple[ExpertLawFit, ...]
    skipped: tuple[str, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Where the two ways of choosing disagree, and each form's own."""
        found = [f"{law.form_name}: {text}" for law in self.laws for text in law.warnings]
        held = [law for law in self.laws if np.isfinite(law.held_out_rmse)]
        if held:
            best = min(held, key=lambda law: law.held_out_rmse)
            if best is not self.laws[0]:
                found.append(
                    f"{self.laws[0].form_name} is best by AICc, {best.form_name} on what was held "
                    "out: neither is established"
                )
        close = [law.form_name for law in self.laws[1:] if law.delta_aicc < 2]
        if close:
            found.append(f"AICc can't tell {self.laws[0].form_name} from {', '.join(close)}")
        return tuple(found)

    def to_frame(self) -> pd.DataFrame:
        """A row a form."""
        names = [
            "form_name", "n_params", "rmse", "aicc", "delta_aicc", "held_out_rmse",
            "held_out_bias", "status",
        ]  # fmt: skip
        return pd.DataFrame([{n: getattr(law, n) for n in names} for law in self.laws])

    def summary(self) -> str:
        """The table and what speaks against it."""
        text = self.to_frame().to_string(index=False, float_format=lambda v: f"{v:.4g}")
        head = f"{self.model}: {self.n_points} runs; held out: {self.held_out}"
        rest = [*self.warnings, *(f"skipped {s}" for s in self.skipped)]
        return "\n".join([head, text, *(f"  note: {line}" for line in rest)])

    def to_dict(self) -> dict[str, Any]:
        """Everything at full precision."""
        return {
            **plain(self),
            "fits": {fit.form_name: fit.to_dict() for fit in self.fits},
            "warnings": list(self.warnings),
        }


def compare_laws(
    table: pd.DataFrame,
    forms: Sequence[FormName] = DEFAULT_FORMS,
    *,
    hold_out: HoldOut = "size",
    model: str | None = None,
    baseline: str | None = None,
    size: str = BACKBONE,
    n_draws: int = 500,
    seed: int = 0,
) -> LawComparison:
    """Fits every form to the same runs, and again without the largest size, experts or budget.

    A form with too few runs is skipped, with the reason. Arguments as in fit_expert_law. Raises
    FitError if no form can be fitted.
    """
    columns = {"size": size, "experts": "n_experts", "budget": "budget"}
    if hold_out not in columns:
        raise ValueError(f"hold_out={hold_out!r} is not one of {', '.join(columns)}")
    column = columns[hold_out]
    choice = {"model": model, "baseline": baseline, "size": size}
    table = table.assign(**{BACKBONE: backbone_params(table)})
    fits, skipped = [], []
    for form in dict.fromkeys(forms):
        try:
            fits.append(fit_expert_law(table, form, **choice, n_draws=n_draws, seed=seed))  # type: ignore[arg-type]
        except FitError as error:
            skipped.append(f"{form}: {error}")
    if not fits:
        raise FitError(f"no form to compare: {'; '.join(skipped)}")

    label = fits[0].model
    done = finished(table)
    rows = done[done["model"] == label]
    values = np.sort(rows[column].dropna().unique())
    enough = len(values) >= 3  # two left, or there is no trend to extend
    held = f"{column} = {values[-1]:.4g}, the largest" if enough else "nothing"
    if not enough:
        skipped.append(f"hold-out: {len(values)} values of {column}, and it needs 3")
    errors = {}
    for fit in fits:
        errors[fit.form_name] = (
            _held_out_errors(table, rows, fit, column, values[-1], choice) if enough else None
        )
    least = min(fit.aicc for fit in fits)
    laws = []
    for fit in sorted(fits, key=lambda fit: fit.aicc):
        off = errors[fit.form_name]
        laws.append(
            ComparedLaw(
                form_name=fit.form_name,
                n_params=len(fit.names) - len(fit.fixed),
                rmse=_rmse_nats(table, fit, choice),
                aicc=fit.aicc,
                delta_aicc=fit.aicc - least,
                held_out_rmse=float("nan") if off is None else float(np.sqrt(np.mean(off**2))),
                held_out_bias=float("nan") if off is None else float(np.mean(off)),
                status=fit.status,
                warnings=fit.warnings,
            )
        )
    return LawComparison(
        model=label,
        n_points=fits[0].n_points,
        held_out=held,
        laws=tuple(laws),
        fits=tuple(sorted(fits, key=lambda fit: fit.aicc)),
        skipped=tuple(skipped),
    )


def _held_out_errors(
    table: pd.DataFrame,
    rows: pd.DataFrame,
    fit: ExpertLawFit,
    column: str,
    value: float,
    choice: dict[str, Any],
) -> np.ndarray | None:
    """predicted - measured in nats of the held-out runs by a law that did not see them."""
    rest = table[~(table[column] == value).fillna(False).astype(bool)]
    try:
        blind = fit_expert_law(rest, fit.form_name, **choice, n_draws=0)  # type: ignore[arg-type]
    except (FitError, ValueError):
        return None
    held = rows[(rows[column] == value).fillna(False).astype(bool)]
    return _errors(held, blind)


def _rmse_nats(table: pd.DataFrame, fit: ExpertLawFit, choice: dict[str, Any]) -> float:
    done = finished(table)
    names = [fit.model, choice["baseline"]]
    rows = done[done["model"].isin([name for name in names if name])]
    return float(np.sqrt(np.mean(_errors(rows, fit) ** 2)))


def _errors(rows: pd.DataFrame, fit: ExpertLawFit) -> np.ndarray:
    rows = rows.assign(n_experts=rows["n_experts"].fillna(1))
    granular = fit.form_name == "granularity"
    if granular and "granularity" not in rows:
        rows = rows.assign(granularity=rows["n_heads"] * rows["top_k"])
    keys = [fit.size_name, "n_experts", "budget", "seed"]
    if granular:
        keys += ["n_tokens", "granularity"]
    cells = best_of_cells(rows, by=keys)
    extra = (
        [cells[name].to_numpy(dtype=np.float64) for name in ("n_tokens", "granularity")]
        if granular
        else []
    )
    predicted = fit.predict(
        cells[fit.size_name].to_numpy(dtype=np.float64),
        cells["n_experts"].to_numpy(dtype=np.float64),
        *extra,
    ).value
    return predicted - cells["loss"].to_numpy(dtype=np.float64)
