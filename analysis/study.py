"""Everything this package can say of one table, fitted once; what can't be fitted says why."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import pandas as pd

from analysis.differences.by_column import DifferencesBy, compare_by
from analysis.differences.models import Differences, compare_models, seeded_budgets
from analysis.differences.multipliers import BudgetMultipliers, budget_multipliers
from analysis.experts.compare import LawComparison, compare_laws
from analysis.experts.fit import size_slopes
from analysis.experts.runs import split_variants
from analysis.fits import TableFits, find_multipliers, with_surface
from analysis.fitting.plain import plain
from analysis.fitting.results import Result
from analysis.fitting.status import FitStatus, find_status, worst_status
from analysis.fitting.text import pluralize
from analysis.flatness import Flatness, flatness_if_any
from analysis.forgetting.compare import Forgetting, compare_forgetting
from analysis.isoflop.curves import IsoFLOPFit
from analysis.isoflop.fit import X_NAMES
from analysis.isoflop.methods import Method
from analysis.isoflop.offsets import at_budgets
from analysis.multiplier.fit import Asymptote
from analysis.multiplier.result import ComputeMultipliers
from analysis.parametric import ParametricFit
from analysis.processes import Begun, mapping
from analysis.progress import Say, silent
from analysis.settings import setting
from analysis.surfaces.compare import SurfaceComparison, compare_surfaces
from analysis.surfaces.models import unique_tokens
from analysis.table.load import best_of_cells, finished
from analysis.table.merged import find_merged
from analysis.table.trunks import trunks_note
from analysis.table.units import loss_unit
from analysis.table.warned import warned
from analysis.validation.agreement import Agreement, compute_agreement
from analysis.validation.hold_out import HoldOut, hold_out_budgets
from analysis.validation.influence import ENOUGH_RUNS, Influence, compute_influence
from experiments.records.record import RunRecord

T = TypeVar("T")
_FEW_DRAWS = 100  # of the bootstrap for the influence of runs


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Study(Result):
    """Fits of a sweep; parts that failed are None or absent, and missing has the reason.

    parametric is by series, and likewise influences and surfaces, of the series of most runs only;
    experts, their expert_runs and slopes by variant, that is by model and what varies besides in
    its layer; differences by budget, at the size of most seeds and over all sizes.
    """

    table: pd.DataFrame
    x_name: str
    isoflop: IsoFLOPFit | None
    agreement: Agreement | None
    hold_out: HoldOut | None
    parametric: Mapping[str, ParametricFit]
    experts: Mapping[str, LawComparison]
    expert_runs: Mapping[str, pd.DataFrame]
    slopes: Mapping[str, pd.DataFrame]
    multipliers: ComputeMultipliers | None
    differences: Mapping[float, Differences]
    differences_over_sizes: Mapping[float, DifferencesBy]
    budget_multipliers: BudgetMultipliers | None
    cautions: tuple[str, ...]  # about the runs themselves, whatever is fitted to them
    missing: tuple[tuple[str, str], ...]
    forgetting: Forgetting | None = None  # of runs that learnt a stream
    influences: Mapping[str, Influence] = field(default_factory=dict)
    surfaces: Mapping[str, SurfaceComparison] = field(default_factory=dict)
    flatness: Flatness | None = None

    @property
    def at_budgets(self) -> pd.DataFrame:
        """Runs with their losses at the FLOPs of their budgets."""
        return at_budgets(self.table, self.x_name).table

    @property
    def parts(self) -> dict[str, Result | None]:
        streamed = {} if self.forgetting is None else {"forgetting": self.forgetting}
        return {
            "isoflop": self.isoflop,
            "agreement": self.agreement,
            "hold_out": self.hold_out,
            "flatness": self.flatness,
            "multipliers": self.multipliers,
            "budget_multipliers": self.budget_multipliers,
            **streamed,
        }

    @property
    def parts_by(self) -> dict[str, Mapping[Any, Result]]:
        """Parts of which there is one for each series, variant or budget."""
        return {
            "parametric": self.parametric,
            "influences": self.influences,
            "surfaces": self.surfaces,
            "experts": self.experts,
            "differences": self.differences,
            "differences_over_sizes": self.differences_over_sizes,
        }

    @property
    def results(self) -> dict[str, Result]:
        """Every result by its name, e.g. "isoflop", "parametric peer"."""
        found = {name: part for name, part in self.parts.items() if part is not None}
        for name, parts in self.parts_by.items():
            found |= {f"{name} {of}": part for of, part in parts.items()}
        return found

    @property
    def status(self) -> FitStatus:
        return worst_status(
            [find_status(self.of_table), *(p.status for p in self.results.values())]
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """Those of every result, each with its name, then the cautions."""
        found = [f"{name}: {w}" for name, part in self.results.items() for w in part.warnings]
        return (*self.of_table, *found, *self.cautions)

    def to_frame(self) -> pd.DataFrame:
        """A row a result: its status and how many warnings it has."""
        rows = [(name, str(r.status), len(r.warnings)) for name, r in self.results.items()]
        return pd.DataFrame(rows, columns=["result", "status", "warnings"])

    def summary(self) -> str:
        lines = [self.to_frame().to_string(index=False)]
        lines += [f"note: {text}" for text in self.cautions]
        return "\n".join([*lines, *(f"not fitted: {what}: {why}" for what, why in self.missing)])

    def to_dict(self) -> dict[str, Any]:
        """Every fit at full precision, for JSON."""
        return {
            **{name: None if part is None else part.to_dict() for name, part in self.parts.items()},
            **{
                name: {str(of): part.to_dict() for of, part in parts.items()}
                for name, parts in self.parts_by.items()
            },
            "size_slopes": {m: plain(s.to_dict("list")) for m, s in self.slopes.items()},
            "cautions": list(self.cautions),
            "missing": dict(self.missing),
            "status": str(self.status),
            "warnings": list(self.warnings),
        }


@warned()
def analyse(
    table: pd.DataFrame,
    x: str = "n_params",
    method: Method = "slice",
    n_nearest: int | None = None,
    *,
    noise: float | None = None,
    baseline: str = "dense",
    asymptote: Asymptote = None,
    seed: int = 0,
    records: Sequence[RunRecord] = (),
    say: Say = silent,
) -> Study:
    """Fits all that the table allows. baseline: whom compute multipliers compare with.

    asymptote: the loss in nats/token that no compute beats, or its range, for the multipliers;
    fitted without it. records: of the table's runs, where it is of a folder; what learnt a stream
    is compared by them. say: called with the name of each fit as it begins. Other arguments as in
    fit_isoflop. What they make impossible is in `missing`.
    Raises ValueError if no run has finished, or x is not one of X_NAMES.
    """
    done = finished(table)
    if x not in X_NAMES:
        raise ValueError(f"x={x!r} is not one of {', '.join(X_NAMES)}")
    size = x if x != "n_tokens" else "n_params"
    attempts = _Attempts(say)
    how: dict[str, Any] = {"n_nearest": n_nearest, "noise": noise, "seed": seed}
    fits = TableFits(table, **how)
    enough, why_not = with_surface(done, size)
    apart = TableFits(table, **how)  # goes to other processes, with none of what is made here
    slow = {f"parametric, {model}": partial(apart.fit_surface, model, size) for model in enough}
    slowest = partial(hold_out_budgets, table, x=x, method=method, n_nearest=n_nearest)
    with mapping(1 + len(slow)) as each:
        held = Begun(each, {"held-out budgets": slowest})  # first, or all wait for it at the end
        begun = Begun(each, slow)
        for model in enough:
            fits.begin_surface(model, size, begun(f"parametric, {model}"))
        isoflop = attempts.make("isoFLOP curves", lambda: fits.isoflop(x, method))
        attempts.missing += [("parametric surface", text) for text in why_not]
        made = {
            model: attempts.make(f"parametric, {model}", partial(fits.surface, model, size))
            for model in enough
        }
        parametric = {model: fit for model, fit in made.items() if fit is not None}
        influences, surfaces = _robustness(done, size, parametric, seed, attempts)
        agreement = attempts.make("agreement", lambda: compute_agreement(fits, size))
        hold_out = attempts.make("held-out budgets", held("held-out budgets"))
    experts, expert_runs = _expert_laws(done, baseline, seed, attempts)
    multipliers = _multipliers(isoflop, baseline, asymptote, attempts)
    level = finished(at_budgets(table, x).table)
    differences, over_sizes = _differences(level, baseline, attempts)
    return Study(
        table=table,
        x_name=x,
        isoflop=isoflop,
        agreement=agreement,
        hold_out=hold_out,
        parametric=parametric,
        influences=influences,
        surfaces=surfaces,
        experts=experts,
        expert_runs=expert_runs,
        slopes={
            name: size_slopes(
                expert_runs[name], model=laws.model, baseline=_one_expert(done, baseline)
            )
            for name, laws in experts.items()
        },
        multipliers=multipliers,
        flatness=flatness_if_any(isoflop, baseline),
        differences=differences,
        differences_over_sizes=over_sizes,
        budget_multipliers=None
        if not differences
        else attempts.make(
            "compute multipliers at each budget", lambda: budget_multipliers(differences)
        ),
        cautions=tuple(_cautions(table, size)),
        forgetting=_forgetting(records, attempts),
        missing=tuple(attempts.missing),
    )


def _forgetting(records: Sequence[RunRecord], attempts: "_Attempts") -> Forgetting | None:
    if not any(record.stages for record in records):
        return None
    return attempts.make("learning and forgetting", lambda: compare_forgetting(records))


class _Attempts:
    """Makes one fit after another, says which, and keeps why one could not be made."""

    def __init__(self, say: Say) -> None:
        self.missing: list[tuple[str, str]] = []
        self._say = say

    def make(self, what: str, fit: Callable[[], T]) -> T | None:
        self._say(f"fitting: {what}")
        try:
            return fit()
        except ValueError as error:  # a FitError is one
            self.missing.append((what, str(error)))
            return None


def _robustness(
    done: pd.DataFrame,
    size: str,
    parametric: Mapping[str, ParametricFit],
    seed: int,
    attempts: _Attempts,
) -> tuple[dict[str, Influence], dict[str, SurfaceComparison]]:
    """Robustness of the series of most runs, if there are enough: each more would take seconds."""
    model = max(parametric, key=lambda name: parametric[name].n_points, default=None)
    if model is None or parametric[model].n_points < ENOUGH_RUNS:
        return {}, {}
    cells = best_of_cells(done[done["series"] == model], by=["budget", size])
    N, D, L = (cells[name] for name in (size, "n_tokens", "loss"))
    influence = attempts.make(
        f"influence of runs, {model}",
        lambda: compute_influence(N, D, L, n_draws=_FEW_DRAWS, seed=seed),
    )
    surfaces = attempts.make(
        f"surfaces, {model}",
        lambda: compare_surfaces(N, D, L, n_unique=unique_tokens(cells), n_draws=0, seed=seed),
    )
    return (
        {} if influence is None else {model: influence},
        {} if surfaces is None else {model: surfaces},
    )


def _differences(
    done: pd.DataFrame, baseline: str, attempts: _Attempts
) -> tuple[dict[float, Differences], dict[float, DifferencesBy]]:
    """At each budget with several seeds: at the size that most were run at, and over its sizes."""
    what = "differences beside the noise of seeds"
    at_best, over_sizes = {}, {}
    for budget in attempts.make(what, lambda: seeded_budgets(done)) or ():
        found = attempts.make(
            f"{what}, C={budget:g}", partial(compare_models, done, baseline, budget=budget)
        )
        if found is None:
            continue
        at_best[budget] = found
        if done.loc[done["budget"] == budget, "n_layers"].nunique() > 1:
            averaged = attempts.make(
                f"differences over sizes, C={budget:g}",
                partial(compare_by, done, "n_layers", baseline, budget=budget),
            )
            if averaged is not None:
                over_sizes[budget] = averaged
    return at_best, over_sizes


def _expert_laws(
    done: pd.DataFrame, baseline: str, seed: int, attempts: _Attempts
) -> tuple[dict[str, LawComparison], dict[str, pd.DataFrame]]:
    """Laws of each variant with several numbers of experts, and the runs they are of."""
    laws, tables = {}, {}
    single = _one_expert(done, baseline)
    for model in dict.fromkeys(done["model"]):
        for name, own in split_variants(done, model).items():
            known = own["n_layers"].notna().all()
            shapes = own["n_layers" if known else "n_active_params"].nunique()
            table = own if single is None else pd.concat([own, done[done["model"] == single]])
            found = attempts.make(
                f"experts, {name}",
                partial(
                    compare_laws,
                    table,
                    hold_out="size" if shapes >= 3 else "experts",
                    model=model,
                    baseline=single,
                    seed=seed,
                ),
            )
            if found is not None:
                laws[name], tables[name] = found, table
    return laws, tables


def _multipliers(
    isoflop: IsoFLOPFit | None, baseline: str, asymptote: Asymptote, attempts: _Attempts
) -> ComputeMultipliers | None:
    what = "compute multipliers"
    if isoflop is None:
        attempts.missing.append((what, "there are no isoFLOP curves to compare"))
        return None
    found = attempts.make(what, lambda: find_multipliers(isoflop, baseline, asymptote=asymptote))
    if found is not None:
        attempts.missing += [(f"{what}, {model}", why) for model, why in found.skipped.items()]
    return found


def _cautions(table: pd.DataFrame, size: str) -> Iterator[str]:
    merged = find_merged(table)
    yield from filter(None, (merged and merged.text, trunks_note(table)))
    cells = best_of_cells(table, by=["series", "budget", size])
    if cells["n_seeds"].max() == 1:
        known = finished(table)["seed"].notna().any()
        found = "one seed everywhere" if known else "seeds are not recorded"
        yield f"{found}: the noise of a loss is unknown"
    at_edge = cells[cells["lr_at_edge"]]
    for series, own in at_edge.groupby("series", sort=False):
        yield (
            f"{series}: the best learning rate is the smallest or largest tried in "
            f"{pluralize(len(own), 'cell')}: try beyond it"
        )
    causal = cells["causal_eval"].fillna(True).astype(bool)
    for series in dict.fromkeys(cells.loc[~causal, "series"]):
        yield f"{series}: scored with routing that sees later tokens; not causal"
    other = table["status"].value_counts().drop("done", errors="ignore")
    for status, n in other.items():
        yield f"{pluralize(int(n), 'run')} {status}: shown below, not fitted"


def _one_expert(done: pd.DataFrame, baseline: str) -> str | None:
    """Baseline, if the table itself says that it has one expert; PEER's one is another."""
    experts = done.loc[done["model"] == baseline, "n_experts"]
    return baseline if len(experts) and (experts == 1).all() else None


def check_choices(table: pd.DataFrame, baseline: str | None, asymptote: Asymptote) -> None:
    """Raises ValueError for what analyse() would only say of the part that it spoils."""
    done = finished(table)
    have = list(dict.fromkeys([*done["series"], *done["model"]]))
    if baseline not in (None, *have):
        raise ValueError(
            f"{setting('baseline', baseline)} has no finished run; the table has {', '.join(have)}"
        )
    lowest = float(done["loss"].min())
    ends = asymptote if isinstance(asymptote, tuple) else (asymptote,)
    for end in ends:
        if end is not None and end >= lowest:
            raise ValueError(
                f"{setting('asymptote', end)} must be below every loss: the lowest is "
                f"{lowest:.4f} {loss_unit(table)}"
            )
