"""A reader's checklist to judge a scaling law, filled in from the table and the fits.

The topics are those of "(Mis)Fitting: A Survey of Scaling Laws" (Li 2025, arXiv:2502.18969): form,
training, data extraction, fitting. What is not known stays None and is shown as not recorded.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis import numbers
from analysis.experts.compare import LawComparison
from analysis.isoflop.curves import IsoFLOPFit
from analysis.isoflop.left_out import outliers_in
from analysis.parametric import ParametricFit
from analysis.report.provenance import Provenance
from analysis.table.merged import find_merged
from analysis.validation.hold_out import HoldOut

Topics = list[tuple[str, str | None]]


def fill_checklist(
    table: pd.DataFrame,
    provenance: Provenance,
    *,
    isoflop: IsoFLOPFit | None = None,
    parametric: Sequence[ParametricFit] = (),
    experts: Sequence[LawComparison] = (),
    hold_out: HoldOut | None = None,
) -> Topics:
    """Topic and answer, in the survey's order."""
    return [
        *_form(table, isoflop, parametric, experts),
        *_training(table, provenance),
        *_extraction(table, provenance, isoflop),
        *_fitting(isoflop, parametric, experts, hold_out),
    ]


def _form(
    table: pd.DataFrame,
    isoflop: IsoFLOPFit | None,
    parametric: Sequence[ParametricFit],
    experts: Sequence[LawComparison],
) -> Topics:
    forms = []
    if isoflop is not None:
        how = {
            "slice": "skewed curve (E + A/N^alpha + B/D^beta at equal compute) in ln",
            "parabola": "parabola in ln",
            "akima": "Akima interpolation in ln-ln",
        }[isoflop.method]
        forms.append(f"isoFLOP: {how} {isoflop.x_name} at each budget, then power laws of compute")
    forms += list(dict.fromkeys(fit.form for fit in parametric))
    forms += list(dict.fromkeys(f.form for c in experts for f in c.fits))
    counts = dict.fromkeys(("n_params", "n_active_params", "n_tokens"), numbers.count)
    known = {n: f for n, f in {**counts, "budget": numbers.flops}.items() if table[n].notna().any()}
    ranges = [
        f"{name} {form(table[name].min())} to {form(table[name].max())}"
        for name, form in known.items()
    ]
    embeddings = bool(table["n_non_embedding_params"].notna().any())
    return [
        ("Formula of each law", "; ".join(forms) or None),
        (
            "Units",
            "loss in nats/token on held-out text; N in parameters; D in tokens, repeats included; "
            "C in training FLOPs",
        ),
        ("Ranges of the variables", "; ".join(ranges) or None),
        (
            "What N counts",
            "n_params all parameters, n_active_params those a token reads; embeddings are in both, "
            + ("and not in n_non_embedding_params" if embeddings else "as the table gave them"),
        ),
    ]


def _training(table: pd.DataFrame, provenance: Provenance) -> Topics:
    done = table[table["status"] == "done"]
    counted = _is_ours(provenance) and len(done) > 0 and done["flops_per_token"].notna().all()
    settings = provenance.settings

    def of(*names: str) -> str | None:
        found = [f"{name}: {settings[name]}" for name in names if name in settings]
        return "; ".join(found) or None

    rates = done.groupby(["series", "budget", "n_params"], dropna=False)["lr"].nunique()
    rates = rates[rates > 0]
    tried = None if rates.empty else f"{_span(rates)} tried a cell"
    epochs = done["epochs"].dropna()
    return [
        ("Models", ", ".join(dict.fromkeys(table["series"]))),
        ("Data and tokenizer", of("corpus", "tokenizer", "vocabulary")),
        ("Passes over the data", f"at most {epochs.max():.3g}" if len(epochs) else None),
        ("Sequence and batch", of("sequence length", "sequences a batch")),
        (
            "Optimiser and schedule",
            of(
                "Adam's betas",
                "weight decay",
                "gradient clip",
                "schedule",
                "warm-up, share of the steps",
                "final learning rate, share of the peak",
            ),
        ),
        (
            "Learning rate",
            _joined(
                of(
                    "peak learning rate",
                    "tables' learning rate, times the backbone's",
                    "keys' learning rate, times the backbone's",
                ),
                tried,
            ),
        ),
        ("How width, depth and heads grow", of("ladder", "blocks with the layer")),
        (
            "How FLOPs are counted",
            "by each run, term by term, with routing, attention and head; a multiply-add is 2, "
            "training 3 times forward"
            if counted
            else _note(table, "6 n_active_params"),
        ),
        ("Code", _joined(", ".join(provenance.commits), provenance.uncommitted)),
        ("Hardware and precision", _joined(*provenance.devices, of("precision"))),
    ]


def _extraction(table: pd.DataFrame, provenance: Provenance, isoflop: IsoFLOPFit | None) -> Topics:
    status = table["status"].value_counts()
    done = table[table["status"] == "done"]
    seeds = done.groupby(["series", "budget", "n_params", "lr"], dropna=False)["seed"].nunique()
    leaky = sorted(done.loc[~done["causal_eval"].fillna(True).astype(bool), "series"].unique())
    merged = find_merged(table)
    dropped = [] if isoflop is None else [*isoflop.skipped, *outliers_in(isoflop.outliers)]
    if isoflop is not None:
        dropped += [f"{law.model}: {text}" for law in isoflop.laws for text in law.excluded]
        if isoflop.n_nearest is not None:
            dropped.append(f"only the {isoflop.n_nearest} sizes nearest to the best of each curve")
    answer = f"{status.get('done', 0)} done, {status.get('failed', 0)} failed, "
    hopeless = status.get("hopeless", 0)
    answer += f"{hopeless} stopped as hopeless, " if hopeless else ""
    answer += f"{status.get('diverged', 0)} diverged (shown, not fitted)"
    return [
        ("Runs", answer),
        (
            "Checkpoints used",
            "the end of each run only, its schedule ended there" if _is_ours(provenance) else None,
        ),
        ("Seeds", f"{_span(seeds)} a cell" if seeds.max() > 0 else None),
        (
            "Several runs of one cell",
            "the mean over seeds of the best learning rate; never a mean over learning rates"
            + (f"; {merged.how}" if merged else ""),
        ),
        ("Runs or budgets excluded from a fit", "; ".join(dropped) or "none"),
        ("What the table left open", "; ".join(table.attrs.get("notes", ())) or "nothing"),
        (
            "Is the evaluation causal?",
            f"not of {', '.join(leaky)}: their routing sees later tokens"
            if leaky
            else ("yes" if len(done) and done["causal_eval"].notna().all() else None),
        ),
    ]


def _fitting(
    isoflop: IsoFLOPFit | None,
    parametric: Sequence[ParametricFit],
    experts: Sequence[LawComparison],
    hold_out: HoldOut | None,
) -> Topics:
    objectives = []
    if isoflop is not None:
        objectives.append("isoFLOP curves and laws: least squares of the loss and of logarithms")
    for fit in parametric[:1]:
        kind = "log loss" if fit.residual == "log" else "loss"
        huber = "least squares" if np.isinf(fit.delta) else f"Huber, delta {fit.delta:g}"
        objectives.append(f"parametric: {huber} of the {kind}, summed")
    if experts:
        objectives.append("experts: least squares of ln L")
    starts = [
        f"{fit.share_at_best:.0%} of {fit.n_starts} starts reached the best" for fit in parametric
    ]
    held = None
    if hold_out is not None:
        errors = hold_out.to_frame()["relative_error"].abs()
        held = (
            f"the {hold_out.n_held} largest budgets: errors up to {errors.max():.2%}, "
            f"{len(hold_out.warnings)} warnings"
        )
    return [
        ("Objective", "; ".join(objectives) or None),
        (
            "Optimiser and starting points",
            _joined(
                "Levenberg-Marquardt from variable projection's optimum and a grid of starts",
                *dict.fromkeys(starts),
            )
            if objectives
            else None,
        ),
        (
            "Intervals",
            "95 %: Student's t with the law's misfit, bootstraps of runs and of noise, jackknife "
            "over budgets; each table says which"
            if objectives
            else None,
        ),
        ("Held-out validation", held),
    ]


def _is_ours(provenance: Provenance) -> bool:
    """Whether there are records, which only this harness writes."""
    return provenance != Provenance()


def _joined(*texts: str | None) -> str | None:
    return "; ".join(text for text in texts if text) or None


def _span(counts: pd.Series) -> str:
    low, high = int(counts.min()), int(counts.max())
    return str(low) if low == high else f"{low} to {high}"


def _note(table: pd.DataFrame, text: str) -> str | None:
    found = [note for note in table.attrs.get("notes", ()) if text in note]
    return found[0] if found else None
