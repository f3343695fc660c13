"""How a run ends: the tables of results/study/pilots.md, by `python -m tests.study.ends`.

Of the records in results/study/ends: dense and PEER, three ends of the schedule, six seeds each,
and of each run the mean of its last weights too. In nats/token on the held-out text.
"""

import math

import numpy as np
from scipy import stats

from analysis.differences.correction import corrected
from experiments.records.files import find_records, read_record
from tests.study.committed import RESULTS
from tests.study.estimators import paired

MODELS = ("dense", "peer")
ENDS = ("cosine to a tenth", "line to zero", "line to zero, double batch")
WEIGHTS = ("last", "mean")
SEEDS = range(3, 9)
CASES = [(end, weights) for end in ENDS for weights in WEIGHTS]


def end_of(record):
    optim = record.config["optim"]
    if optim["schedule"] == "cosine":
        return ENDS[0]
    return ENDS[2 if record.batch_tokens == 2048 else 1]


def losses():
    """(model, end, weights): {seed: loss}."""
    found = {(m, e, w): {} for m in MODELS for e in ENDS for w in WEIGHTS}
    for path in find_records(RESULTS / "ends"):
        record = read_record(path)
        own = record.val_loss, record.parts["weight_average"]["validation.loss"]
        for weights, loss in zip(WEIGHTS, own, strict=True):
            found[record.model, end_of(record), weights][record.seed] = loss
    return {key: dict(sorted(of.items())) for key, of in found.items()}


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


def rows(found):
    """Layer, end, weights, mean, standard deviation over seeds, minus cosine's last weights, and p
    after Holm's correction for the ten differences.
    """
    keys = [(m, *case) for m in MODELS for case in CASES]
    differences = {
        key: paired(found[key], found[key[0], *CASES[0]]) for key in keys if key[1:] != CASES[0]
    }
    p_holm = corrected({key: d.p for key, d in differences.items()})
    cells = []
    for key in keys:
        values = np.array(list(found[key].values()))
        more = [str(differences[key]), f"{p_holm[key]:.2g}"] if key in differences else ["", ""]
        cells.append([*key, f"{values.mean():.4f}", f"{values.std(ddof=1):.3f}", *more])
    return cells


def contrasts(found):
    """PEER minus dense at each end and weights, and the standard deviation of a pair."""
    cells = []
    for e, w in CASES:
        peer, dense = (found[m, e, w] for m in ("peer", "dense"))
        apart = np.array([peer[s] - dense[s] for s in SEEDS])
        cells.append([e, w, str(paired(peer, dense)), f"{apart.std(ddof=1):.3f}"])
    return cells


def noises(found):
    """A standard deviation over seeds as a part of that of cosine's last weights, by layer."""
    cells = []
    for e, w in CASES[1:]:
        ratios = [less_noise(found[m, e, w], found[m, *CASES[0]]) for m in MODELS]
        cells.append([e, w, *(f"{r:.2f} ({low:.2f} to {high:.2f})" for r, low, high in ratios)])
    return cells


def doubled(found):
    """Double batch minus single, lines to zero, last weights: each layer, and the mean of both."""
    single, double = ({m: found[m, e, "last"] for m in MODELS} for e in ENDS[1:])
    apart = [paired(double[m], single[m]) for m in MODELS]
    means = ({s: np.mean([of[m][s] for m in MODELS]) for s in SEEDS} for of in (double, single))
    return [*apart, paired(*means)]


if __name__ == "__main__":
    found = losses()
    for table in (rows, contrasts, noises):
        for cells in table(found):
            print("| " + " | ".join(cells) + " |")
        print()
    print(*doubled(found), sep="\n")
