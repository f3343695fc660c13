"""Committed study as its documents are tested against it: records, and what their seeds say.

Written apart from analysis/, from the records alone, so that the two can disagree.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from scipy import stats

from experiments.config.paths import conf_dir
from experiments.records.files import find_records, read_record
from experiments.records.record import RunRecord

ROOT = conf_dir().parent
RESULTS = ROOT / "results" / "study"
SWEEPS = ("causes", "experts", "isoflop", "tuning")
DOCUMENT = ROOT / "results" / "study" / "first.md"
MODELS = ("dense", "none", "moe", "moe_fine", "pkm", "peer")
SPARSE = MODELS[2:]
SEEDED = {3e12: 3, 1e13: 4, 3e13: 5}  # budget: the blocks that three seeds were run at


def text(name):
    """A document on one line, so that a sentence is found wherever it is wrapped."""
    return " ".join((ROOT / name).read_text().split())


def document_table(first, document=DOCUMENT):
    """Heads and rows of the document's table that begins with this cell."""
    lines = [line.strip() for line in document.read_text().split("\n")]
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first}".rstrip() + " |"))
    end = next(i for i in range(start, len(lines)) if not lines[i].startswith("|"))
    cells = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines[start:end]]
    return cells[0], cells[2:]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Of two means in nats/token, with its 95 % interval and two-sided p."""

    value: float
    half: float
    p: float

    def __str__(self):
        return f"{self.value:.3f} ({self.value - self.half:.3f} to {self.value + self.half:.3f})"


def student(value, sd, dof):
    """A difference whose standard deviation is estimated with so many degrees of freedom."""
    return Difference(
        value=float(value),
        half=float(stats.t.ppf(0.975, dof) * sd),
        p=float(2 * stats.t.sf(abs(value) / sd, dof)),
    )


def welch(value, variance, other, dof=6):
    """A difference of two estimates of unlike variance, each of `dof` degrees of freedom."""
    total = variance + other
    return student(value, math.sqrt(total), total**2 / ((variance**2 + other**2) / dof))


@dataclass(frozen=True)
class Seeds:
    """The isoFLOP sweep's losses, or any number of each record that `score` names."""

    records: list[RunRecord]
    score: object = staticmethod(lambda record: record.val_loss)

    @cached_property
    def cells(self):
        """(model, budget, blocks): the losses of its seeds."""
        found = {}
        for r in sorted(self.records, key=lambda r: r.seed):
            found.setdefault((r.model, r.budget, r.n_layers), []).append(self.score(r))
        return {key: np.array(losses) for key, losses in found.items()}

    def of(self, model, budget):
        """Three seeds, at dense's best size."""
        return self.cells[model, budget, SEEDED[budget]]

    def mean(self, model, budget, n_layers=None):
        return self.cells[model, budget, n_layers or SEEDED[budget]].mean()

    def over_sizes(self, model, baseline, budget):
        """Difference at each size of the budget, smallest first."""
        sizes = sorted(n for m, b, n in self.cells if (m, b) == (model, budget))
        at = [self.mean(model, budget, n) - self.mean(baseline, budget, n) for n in sizes]
        return np.array(at)

    @cached_property
    def own(self):
        """Each model's variance of one run, pooled over the budgets: 6 degrees of freedom."""
        return {m: np.mean([self.of(m, b).var(ddof=1) for b in SEEDED]) for m in MODELS}

    def pooled(self, budget):
        """Variance of one run, pooled over the models: 12 degrees of freedom."""
        return np.mean([self.of(m, budget).var(ddof=1) for m in MODELS])

    def by_own(self, model, baseline, budget):
        value = self.mean(model, budget) - self.mean(baseline, budget)
        return welch(value, self.own[model] / 3, self.own[baseline] / 3)

    def by_pooled(self, model, baseline, budget):
        value = self.mean(model, budget) - self.mean(baseline, budget)
        return student(value, math.sqrt(self.pooled(budget) * 2 / 3), 12)

    def mean_by_own(self, model, baseline):
        """On the mean of the three budgets: nine runs of each."""
        value = np.mean([self.by_own(model, baseline, b).value for b in SEEDED])
        return welch(value, self.own[model] / 9, self.own[baseline] / 9)

    def after_holm(self, by, budget):
        """Pairs, lower loss first, that are significant at 5 % among all of the budget."""
        pairs = {pair: by(*pair, budget) for pair in combinations(MODELS, 2)}
        found = set()
        for rank, (pair, d) in enumerate(sorted(pairs.items(), key=lambda item: item[1].p)):
            if d.p * (len(pairs) - rank) > 0.05:
                break
            found.add(pair if d.value < 0 else pair[::-1])
        return found

    def multipliers(self, model, baseline):
        """(multiplier, lower, upper) at each budget and for their geometric mean.

        By the delta method: the gradient in the six mean losses, whose variances are known.
        """
        losses = np.array([[self.mean(m, b) for b in SEEDED] for m in (model, baseline)])
        at, step = log_multipliers(*losses), 1e-6
        spread = []
        for arm, name in enumerate((model, baseline)):
            squares = 0.0
            for budget in range(3):
                moved = losses.copy()
                moved[arm, budget] += step
                squares += ((log_multipliers(*moved) - at) / step) ** 2
            spread.append(squares * self.own[name] / 3)
        found = [welch(*each) for each in zip(at, *spread)]
        return [tuple(np.exp([d.value, d.value - d.half, d.value + d.half])) for d in found]


def log_multipliers(losses, baseline):
    """ln of the compute that the baseline needs for these losses, over the budget; then the mean.

    The baseline's losses are joined by straight lines in ln C and continued beyond the last.
    """
    x = np.log(list(SEEDED))
    found = []
    for here, loss in zip(x, losses, strict=True):
        i = 0 if loss > baseline[1] else 1
        slope = (x[i + 1] - x[i]) / (baseline[i + 1] - baseline[i])
        found.append(x[i] + (loss - baseline[i]) * slope - here)
    return np.array([*found, np.mean(found)])


def all_records():
    """Of the study's sweeps. results/study/rates asks another question, and has copies of these."""
    return [read_record(path) for name in SWEEPS for path in find_records(RESULTS / name)]


def distinct_records():
    """The 252 runs: six of the isoFLOP sweep are also runs of the experts' sweep."""
    return list({record.run_id: record for record in all_records()}.values())


def isoflop(score=None):
    records = [read_record(path) for path in find_records(RESULTS / "isoflop")]
    return Seeds(records, score) if score else Seeds(records)
