"""The study's fourth edition, as results/study/edition_4/preregistration.yaml has it: no layer at
1e14 FLOPs and six blocks by rates that were tried, beside PEER and `moe_fine` of the third edition.

    python -m tests.study.fourth
    python -m tests.study.fourth made   # how often intervals of made tables hold the truth
"""

import math
import sys
from functools import cache

import numpy as np
import pandas as pd

from analysis.contrast.compute import compute_contrasts
from analysis.contrast.held import Held, hold_to
from analysis.contrast.preregistration import read_registration
from analysis.fitting.status import FitError
from analysis.rates.saved import read_rates
from analysis.table.load import load_table
from experiments.records.files import find_records, read_record
from experiments.records.record import ENDED
from tests.study import fine
from tests.study.planned import planned
from tests.study.records import RESULTS, find
from tests.study.second import BY_FORM, near, read_together, said

FOLDER = RESULTS / "edition_4"
STAGES = ("study_main_4", "study_main_4_others")
SEARCHED = 1e13  # whose rates tell the curvature
CURVATURE, NOISE = 0.08, 0.028  # of none at 1e13; of a run of PEER or moe_fine at 1e14


@cache
def held(stage=None) -> Held:
    """Registered contrasts as the runs have them; stage: by the runs up to this one alone.

    Raises FitError while one of them hasn't ended: their number was registered.
    """
    if rest := left(stage):
        raise FitError(f"{len(rest)} of {len(points(stage))} runs have not ended")
    of_third = {r.run_id for model in fine.LAYERS for r in fine.runs(model)}
    source = together(of_third | searched() | {p.run_id for p in points(stage)})
    table = load_table(source)
    registered = read_registration(FOLDER / "preregistration.yaml")
    return hold_to(registered, table, documents=source.documents)


def together(wanted):
    """Source of the records of these runs, in the folders of three editions."""
    folders = (RESULTS / "edition_3", RESULTS / "rates_2", FOLDER)
    return read_together(
        [path for one in folders for path in find_records(one) if path.parent.name in wanted]
    )


def searched():
    return {r.run_id for r in find("study/rates_2", budget=SEARCHED)}


def points(stage=None):
    """Planned runs of the stages up to this one."""
    names = STAGES if stage is None else STAGES[: STAGES.index(stage) + 1]
    return [point for name in names for point in planned(name)]


def left(stage=None):
    """Those of the points that no record says the end of."""
    ended = {r.run_id for r in map(read_record, find_records(FOLDER)) if r.status in ENDED}
    return [point for point in points(stage) if point.run_id not in ended]


def verdict(name, stage=None):
    """Of a registered contrast: open too where a lowest point is outside of the rates tried."""
    found = held(stage)
    (one,) = (v for v in found.verdicts if v.primary.name == name)
    inside = {m.layer: m.inside for m in found.every.minima if near(m.budget, 1e14)}
    pair = one.primary.layer, one.primary.baseline
    outside = [layer for layer in pair if not inside.get(layer, True)]
    return one, ("open" if outside and one.verdict != "not computed" else one.verdict), outside


def registered(name):
    """Number of a contrast and its verdict with p, after the first stage, as the page has them."""
    one, word, _ = verdict(name, STAGES[0])
    return said(one, word)


def lowest(layer):
    """Lowest point of a layer at 1e14 after the first stage."""
    minima = held(STAGES[0]).every.minima
    return next(m for m in minima if m.layer == layer and near(m.budget, 1e14))


def rates():
    """Of none in the first stage, lowest first."""
    return sorted({p.config.optim.lr for p in points(STAGES[0])})


def at_the_law_s():
    """Runs of none at this budget and size by the law's rate, of the second edition."""
    return find("study/edition_2", model="none", budget=fine.BUDGET, n_layers=fine.SIZE)


def mean_at(lr):
    """Mean loss of none's runs at a rate."""
    return float(np.mean([r.val_loss for r in find("study/edition_4", lr=lr)]))


def said_by_forms(point):
    """Rates that each form of the law says of a planned run."""
    about = {"d_model": point.transformer.d_model, "n_tokens": point.plan.n_tokens}
    found = {}
    for form, path in BY_FORM.items():
        (law,) = (own[0] for own in read_rates(path).laws if len(own[0].models) > 1)
        rows = pd.DataFrame([about])
        found[form] = math.exp(float((law.design(rows, [point.config.model_name]) @ law.theta)[0]))
    return found


def bracketed(rates, best, n=4000, seeds=4):
    """Share of made tables whose parabola has its lowest point within these rates."""
    rng, x = np.random.default_rng(0), np.repeat(np.log(rates), seeds)
    losses = CURVATURE * (x - math.log(best)) ** 2 + NOISE * rng.standard_normal((n, len(x)))
    made = (fine.Parabola(x=x - x.mean(), losses=own, middle=x.mean()) for own in losses)
    return sum(one.lowest_at is not None for one in made) / n


def held_truths(n=60):
    """Made tables of the three layers, beside the search as it is: by curvature and none's best
    rate the shares whose interval of the gain is finite, and of these which hold the truth.
    """
    search = load_table(together(searched()))
    like = load_table(together({fine.runs("peer")[0].run_id})).iloc[0]
    rates = {m: sorted({r.lr for r in fine.runs(m)}) for m in fine.LAYERS}
    rates["none"] = sorted({p.config.optim.lr for p in planned("study_main_4")})
    truths = {"peer": (3.16, 0.0028), "moe_fine": (3.13, 0.0035)}
    for curvature in (0.04, 0.08, 0.12):
        for best in (0.00254, 0.00413):
            found = []
            for seed in range(n):
                rng, rows = np.random.default_rng(seed), []
                for name, (lowest, at) in {**truths, "none": (3.235, best)}.items():
                    for lr in np.repeat(rates[name], len(fine.SEEDS)):
                        loss = lowest + curvature * math.log(lr / at) ** 2
                        about = {"model": name, "series": name, "lr": lr, "seed": len(rows)}
                        about["loss"] = loss + NOISE * rng.standard_normal()
                        rows.append(like.to_dict() | about | {"run_id": f"{len(rows)}"})
                table = pd.concat([search, pd.DataFrame(rows)], ignore_index=True)
                asked = {"layers": ["peer"], "baselines": ["none"], "primary": ["peer-none@1e14"]}
                classes = {"all": [*dict.fromkeys(table["series"])]}
                found.append(
                    compute_contrasts(table, x="lr", classes=classes, **asked).differences[0]
                )
            finite = [d.value for d in found if math.isfinite(d.half_width)]
            holds = sum(v.lower <= 3.16 - 3.235 <= v.upper for v in finite) / len(finite)
            half = np.median([(v.upper - v.lower) / 2 for v in finite])
            print(f"curvature {curvature:g}, best rate {best:g}: {len(finite)} of {n} finite, "
                  f"{holds:.0%} hold the truth, half-width {half:.3f}", flush=True)  # fmt: skip


def main():
    for stage in STAGES:
        of_layer = {}
        for point in planned(stage):
            of_layer.setdefault(point.config.model_name, []).append(point)
        for layer, own in of_layer.items():
            rates = sorted({p.config.optim.lr for p in own})
            forms = said_by_forms(own[0])
            print(f"{stage}: {layer} at", *(f"{lr:g}" for lr in rates), "; the law of",
                  ", ".join(f"{f} says {lr:.5f}" for f, lr in forms.items()))  # fmt: skip
            if stage == "study_main_4":
                for step in (2, 1.5):
                    tried = [rates[1] / step, rates[1], rates[1] * step]
                    shares = (f"{bracketed(tried, best):.0%}" for best in forms.values())
                    print(f"  lowest point within rates {step:g} times either way:", *shares)
    for stage in STAGES:
        of, rest = points(stage), left(stage)
        print(f"\nup to {stage}: {len(of) - len(rest)} of {len(of)} runs")
        if rest:
            print("no number is told before all have ended, as their number was registered")
            continue
        try:
            print(held(stage).summary())
        except FitError as error:
            print(f"not computed, so open: {error}")
            continue
        for one in held(stage).verdicts:
            _, word, outside = verdict(one.primary.name, stage)
            why = f", as the lowest point of {', '.join(outside)} is outside" if outside else ""
            print(f"{one.primary.name}: {one.text}, p {one.p_holm:.2g}: {word}{why}")


if __name__ == "__main__":
    held_truths() if sys.argv[1:] == ["made"] else main()
