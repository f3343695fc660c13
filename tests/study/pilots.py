"""Numbers of results/study/pilots.md: how a run ends, and whether it was the schedule."""

import csv
import math
from functools import cache

import numpy as np
from scipy import stats

from analysis.differences.correction import corrected
from tests.study.records import RESULTS, paired, records

ENDED = (3e12, 3, 196608)  # FLOPs, blocks and held-out tokens of results/study/ends
ENDS = ("cosine to a tenth", "line to zero", "line to zero, double batch")
SEEDS = range(3, 9)
CASES = [(end, weights) for end in ENDS for weights in ("last", "mean")]
COSINE = CASES[0]
BOTH = ("dense", "peer")


def _end(record):
    if record.config["optim"]["schedule"] == "cosine":
        return ENDS[0]
    return ENDS[2 if record.batch_tokens == 2048 else 1]


@cache
def ended():
    """(model, end, weights): {seed: loss}."""
    found = {(m, *case): {} for m in BOTH for case in CASES}
    for r in sorted(records("study/ends"), key=lambda r: r.seed):
        found[r.model, _end(r), "last"][r.seed] = r.val_loss
        found[r.model, _end(r), "mean"][r.seed] = r.parts["weight_average"]["validation.loss"]
    assert all(set(of) == set(SEEDS) for of in found.values())
    return found


def values(*key):
    return np.array([*ended()[key].values()])


def minus_cosine():
    """(model, end, weights): the difference, and p corrected for all ten."""
    others = [(m, *case) for m in BOTH for case in CASES[1:]]
    found = {key: paired(ended()[key], ended()[key[0], *COSINE]) for key in others}
    p = corrected({key: d.p for key, d in found.items()})
    return {key: (found[key], p[key]) for key in others}


def end_rows():
    """Mean, standard deviation over seeds, and minus cosine's last weights with p."""
    found = minus_cosine()
    keys = [(m, *case) for m in BOTH for case in CASES]
    return [[values(*k).mean(), values(*k).std(ddof=1), found.get(k, ())] for k in keys]


def raised(model):
    """What the mean of the weights adds after a line to zero."""
    return values(model, ENDS[1], "mean").mean() - values(model, ENDS[1], "last").mean()


def leads():
    """PEER minus dense at each end and weights, and the standard deviation of a pair."""
    pairs = [[ended()[m, *case] for m in ("peer", "dense")] for case in CASES]
    sd = [np.std([a[s] - b[s] for s in SEEDS], ddof=1) for a, b in pairs]
    return [[paired(a, b), apart] for (a, b), apart in zip(pairs, sd, strict=True)]


def less_noise(of, other):
    """Ratio of two standard deviations over the same seeds, and its 95 % interval.

    Two variances of paired numbers are equal where their sum and difference do not correlate
    (Morgan 1939, Biometrika 31, 13; Pitman 1939, the same, 9). The interval has the ratios that
    this test keeps at 5 %.
    """
    x, y = (np.array([d[seed] for seed in SEEDS]) for d in (of, other))
    ratio = float(x.std(ddof=1) / y.std(ddof=1))
    n, r = len(x), float(np.corrcoef(x, y)[0, 1])
    quantile = stats.t.ppf(0.975, n - 2) ** 2
    k = 1 + 2 * (1 - r**2) * quantile / (n - 2)
    wide = k + math.sqrt(k**2 - 1)
    return ratio, ratio / math.sqrt(wide), ratio * math.sqrt(wide)


def noises():
    """A standard deviation over seeds as a part of that of cosine's last weights, by layer."""
    of = ended()
    return [[less_noise(of[m, *case], of[m, *COSINE]) for m in BOTH] for case in CASES[1:]]


def doubled():
    """Double batch minus single, lines to zero, last weights: each layer, and the mean of both."""
    single, double = ({m: ended()[m, e, "last"] for m in BOTH} for e in ENDS[1:])
    means = ({s: np.mean([of[m][s] for m in BOTH]) for s in SEEDS} for of in (double, single))
    return [*(paired(double[m], single[m]) for m in BOTH), paired(*means)]


def correlation(model):
    """Of the losses of a line and of a cosine, over seeds."""
    ends = [values(model, e, "last") for e in ENDS[:2]]
    return np.corrcoef(*ends)[0, 1]


# WSD: of results/study/wsd, and seed 0 of isoflop (cosine) and of wsd_pilot (branches)

BUDGET, BLOCKS = 3e13, 4
SCHEDULES = ("cosine to a tenth", "WSD", "line to zero")
FIRST, C, W = (0, 0), (0, 1), (1, 1)  # a schedule and the place of its rate: cosine twice, WSD
PEAKS = {"dense": (5e-3, 3.5e-3, 2.5e-3), "peer": (5.5e-3, 3.9e-3, 2.75e-3)}


def _schedule(optim):
    if optim["schedule"] == "cosine":
        return SCHEDULES[0]
    return SCHEDULES[2 if optim.get("final_lr") == 0 and optim["decay"] == 0.9 else 1]


@cache
def wsd():
    """(model, schedule, rate): {seed: loss}."""
    found = {}
    for r in [r for sweep in ("isoflop", "wsd_pilot", "wsd") for r in records(f"study/{sweep}")]:
        own = r.val_loss is not None and (r.budget, r.n_layers) == (BUDGET, BLOCKS)
        lr = r.config["ladder"]["lr"]
        if own and lr in PEAKS.get(r.model, ()):
            key = r.model, _schedule(r.config["optim"]), lr
            found.setdefault(key, {})[r.seed] = r.val_loss
    return {key: dict(sorted(of.items())) for key, of in found.items()}


def wsd_rows():
    """Layer, schedule, peak rate, losses of each seed, and their mean."""
    keys = [(m, s, lr) for m in PEAKS for s in SCHEDULES for lr in PEAKS[m]]
    own = [(*key, wsd()[key]) for key in keys if key in wsd()]
    return [[m, s, f"{lr:.3g}", *of.values(), np.mean([*of.values()])] for m, s, lr, of in own]


def wsd_minus(model, one, other):
    """Over how many seeds, and the difference."""
    a, b = (wsd()[model, SCHEDULES[s], PEAKS[model][i]] for s, i in (one, other))
    return len(a.keys() & b.keys()), paired(a, b)


def ruling():
    """By the rule of conf/experiment/study_wsd.yaml, which was written before any of them ran."""
    cosine = np.mean([*wsd()["dense", SCHEDULES[0], 5e-3].values()])
    own = np.mean([*wsd()["dense", SCHEDULES[1], 3.5e-3].values()])
    if cosine < 3.56:
        return cosine, own, "noise"
    return cosine, own, "schedule" if cosine > 3.58 and own < 3.55 else "undecided"


def of_peer():
    """Losses of all its schedules."""
    return [loss for (m, *_), of in wsd().items() if m == "peer" for loss in of.values()]


@cache
def copying():
    """results/study/inspect/copying.csv, largest budget first, then by loss."""
    with (RESULTS / "inspect" / "copying.csv").open() as file:
        rows = list(csv.DictReader(file))
    words = ("model", "schedule", "sweep", "run_id")
    own = [{k: v if k in words else float(v) for k, v in row.items()} for row in rows]
    return sorted(own, key=lambda r: (-r["budget"], r["loss"]))


def four(row):
    """Loss, that of repeated pairs and of new ones, and new less repeated."""
    return row["loss"], row["repeated"], row["new"], row["new"] - row["repeated"]


def copying_rows():
    found = []
    for r in copying():
        schedule = SCHEDULES[0 if r["schedule"] == "cosine" else 2 if r["final_lr"] == 0 else 1]
        about = r["model"], f"{r['budget']:.0e}".replace("e+", "e"), schedule, f"{r['lr']:.3g}"
        found.append([*about, r["seed"], *four(r)])
    return found


def copied(model, budget=BUDGET):
    """Columns of these four numbers (4, runs)."""
    own = [four(r) for r in copying() if (r["model"], r["budget"]) == (model, budget)]
    return np.array(own).T


def gap(record):
    """New less repeated, of a record's documents."""
    _, repeated, new = by_targets(record)
    return new - repeated


def by_targets(record):
    """Its losses of all targets, of repeated ones and of new ones, in nats/token."""
    d = record.documents
    n, repeated = sum(d["n_tokens"]), sum(d["n_repeated"])
    nats, of_repeated = sum(d["nats"]), sum(d["nats_repeated"])
    return nats / n, of_repeated / repeated, (nats - of_repeated) / (n - repeated)
