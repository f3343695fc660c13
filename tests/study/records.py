"""Committed records, and what the seeds of the first edition say: apart from analysis/, from
the records alone, so that the two can disagree.
"""

import math
import subprocess
from collections import defaultdict
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy import stats

from experiments.config.paths import conf_dir
from experiments.records.files import find_records, read_record
from experiments.records.uncommitted import uncommitted_note

ROOT = conf_dir().parent
RESULTS = ROOT / "results" / "study"
MODELS = ("dense", "none", "moe", "moe_fine", "pkm", "peer")
SPARSE = MODELS[2:]
SEEDED = {3e12: 3, 1e13: 4, 3e13: 5}  # budget: the blocks that three seeds were run at
_OF_CONFIG = {
    "rate": ("ladder", "lr"), "width": ("ladder", "d_model"),
    "gate": ("model", "gate"), "heads": ("model", "n_heads"), "top_k": ("model", "top_k"),
    "query_norm": ("model", "query_norm"), "d_key": ("model", "d_key"),
    "routing": ("model", "routing"), "capacity": ("model", "capacity_factor"),
    "table_lr": ("optim", "table_lr"), "schedule": ("optim", "schedule"),
    "matrices": ("optim", "matrices"), "parametrization": ("optim", "parametrization"),
}  # fmt: skip


@cache
def records(sweep):
    """Of a folder below results/, by run id."""
    return [read_record(path) for path in find_records(ROOT / "results" / sweep)]


def column(record, name):
    """A column of a record, or a setting of its config."""
    part, key = _OF_CONFIG.get(name, (None, name))
    return record.config[part].get(key) if part else getattr(record, name)


def find(sweep, **where):
    """Sweep's records with these values, by seed."""
    found = [r for r in records(sweep) if all(column(r, k) == v for k, v in where.items())]
    return sorted(found, key=lambda r: r.seed)


def losses(sweep, **where):
    """Losses of find(), in nats/token: an array (runs,), by seed."""
    return np.array([r.val_loss for r in find(sweep, **where)])


def by(sweep, *names, **where):
    """Records of find() in lists, by the values of these columns."""
    found = defaultdict(list)
    for r in find(sweep, **where):
        found[tuple(column(r, name) for name in names)].append(r)
    return dict(found)


def clean(sweep):
    """All are done, of one commit, without uncommitted changes."""
    about = [(r.status, r.environment["git_dirty"]) for r in records(sweep)]
    one = len({r.environment["git_commit"] for r in records(sweep)}) == 1
    return one and set(about) == {("done", False)}


@cache
def committed():
    """Records that git has, by sweep: runs of one's own are beside them."""
    listed = ["git", "ls-files", "-z", "results/*record.json"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    known = defaultdict(set)
    for path in map(Path, names.split("\0")[:-1]):
        known[path.parts[1:-2]].add(path.parts[-2])
    sweeps = {"/".join(parts): ids for parts, ids in known.items()}
    return {s: [r for r in records(s) if r.run_id in ids] for s, ids in sweeps.items()}


def _counted(holds):
    counts = {sweep: sum(map(holds, own)) for sweep, own in committed().items()}
    return {sweep: count for sweep, count in counts.items() if count}


def dirty_in():
    """Sweep: how many records are of uncommitted code."""
    return _counted(lambda r: bool(r.environment.get("git_dirty")))


def noted():
    """A command's note counts them too."""
    own = dirty_in().items()
    return all(f"{n} of a working tree" in uncommitted_note(committed()[s]) for s, n in own)


def of_no_commit():
    return _counted(lambda r: r.environment.get("git_dirty") is None)


def lacking():
    """Sweep: how many name a commit that no branch of the repository has."""
    lacked = {"03cbb98b9f01", "0dca8ec823e2", "871ffdb70eb6", "d6809b945181"}

    def holds(r):
        there = (r.environment.get("git_commit") or "")[:12] not in lacked
        assert there or not r.environment["git_dirty"]
        return not there

    return _counted(holds)


def one_loss(sweep, *names, **where):
    """Loss of the only run with these values of the columns."""
    return {key: r.val_loss for key, (r,) in by(sweep, *names, **where).items()}


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A number with its 95 % interval, and the two-sided p of 0."""

    value: float
    lower: float
    upper: float
    p: float

    def __iter__(self):
        return iter((self.value, self.lower, self.upper))

    def __neg__(self):
        return Interval(value=-self.value, lower=-self.upper, upper=-self.lower, p=self.p)

    def __str__(self):
        return "{:.3f} ({:.3f} to {:.3f})".format(*self)


def student(value, sd, dof, quantile=stats.t.ppf):
    """A number whose standard deviation is estimated with so many degrees of freedom."""
    half = float(quantile(0.975, dof) * sd)
    p = float(2 * stats.t.sf(abs(value) / sd, dof))
    return Interval(value=float(value), lower=value - half, upper=value + half, p=p)


def welch(value, variance, other, dof=6, dof_of_other=None):
    """A difference of two estimates of unlike variance."""
    total = variance + other
    parts = variance**2 / dof + other**2 / (dof_of_other or dof)
    return student(value, math.sqrt(total), total**2 / parts)


def paired(of, other):
    """Mean difference of two {seed: loss} over the seeds of both, by a paired t test."""
    apart = np.array([of[seed] - other[seed] for seed in sorted(of.keys() & other.keys())])
    return student(apart.mean(), apart.std(ddof=1) / math.sqrt(len(apart)), len(apart) - 1)


def holm(p):
    """{name: p} after Holm's correction (1979)."""
    found, least = {}, 0.0
    for rank, name in enumerate(sorted(p, key=p.get)):
        least = found[name] = max(least, min(1.0, p[name] * (len(p) - rank)))
    return found


@dataclass(frozen=True)
class Seeds:
    """Losses of the isoFLOP sweep, or any number of each record that `score` gives."""

    score: object = staticmethod(lambda record: record.val_loss)

    @cached_property
    def cells(self):
        """(model, budget, blocks): the losses of its seeds."""
        cells = by("study/isoflop", "model", "budget", "n_layers")
        return {key: np.array([self.score(r) for r in own]) for key, own in cells.items()}

    def at(self, model, budget):
        """Three seeds, at dense's best size."""
        return self.cells[model, budget, SEEDED[budget]]

    def mean(self, model, budget, n_layers=None):
        return self.cells[model, budget, n_layers or SEEDED[budget]].mean()

    def minus(self, model, other, budget, n_layers=None):
        return self.mean(model, budget, n_layers) - self.mean(other, budget, n_layers)

    def sizes(self, budget):
        return sorted(n for model, b, n in self.cells if (model, b) == ("peer", budget))

    def over_sizes(self, model, other, budget):
        """Difference at each size of the budget, smallest first."""
        return np.array([self.minus(model, other, budget, n) for n in self.sizes(budget)])

    @cached_property
    def own(self):
        """Each model's variance of one run, pooled over the budgets: 6 degrees of freedom."""
        return {m: np.mean([self.at(m, b).var(ddof=1) for b in SEEDED]) for m in MODELS}

    def pooled(self, budget):
        """Variance of one run, pooled over the models: 12 degrees of freedom."""
        return np.mean([self.at(m, budget).var(ddof=1) for m in MODELS])

    def by_own(self, model, other, budget):
        return welch(self.minus(model, other, budget), self.own[model] / 3, self.own[other] / 3)

    def by_pooled(self, model, other, budget):
        return student(self.minus(model, other, budget), math.sqrt(self.pooled(budget) * 2 / 3), 12)

    def mean_by_own(self, model, other):
        """On the mean of the three budgets: nine runs of each."""
        value = np.mean([self.minus(model, other, b) for b in SEEDED])
        return welch(value, self.own[model] / 9, self.own[other] / 9)

    def after_holm(self, rule, budget):
        """Pairs, lower loss first, that are significant at 5 % among all of the budget."""
        found = {pair: getattr(self, rule)(*pair, budget) for pair in combinations(MODELS, 2)}
        p = holm({pair: d.p for pair, d in found.items()})
        return {pair if found[pair].value < 0 else pair[::-1] for pair in found if p[pair] <= 0.05}

    def multipliers(self, model, other):
        """(multiplier, lower, upper) at each budget and for their geometric mean.

        By the delta method: the gradient in the six mean losses, whose variances are known.
        """
        means = np.array([[self.mean(m, b) for b in SEEDED] for m in (model, other)])
        at, step = log_multipliers(*means), 1e-6
        spread = []
        for arm, name in enumerate((model, other)):
            squares = 0.0
            for budget in range(3):
                moved = means.copy()
                moved[arm, budget] += step
                squares += ((log_multipliers(*moved) - at) / step) ** 2
            spread.append(squares * self.own[name] / 3)
        return [tuple(np.exp([*welch(*each)])) for each in zip(at, *spread)]


def log_multipliers(means, baseline):
    """ln of the compute that the baseline needs for these losses, over the budget; then the mean.

    The baseline's losses are joined by straight lines in ln C and continued beyond the last.
    """
    x = np.log(list(SEEDED))
    found = []
    for here, loss in zip(x, means, strict=True):
        i = 0 if loss > baseline[1] else 1
        slope = (x[i + 1] - x[i]) / (baseline[i + 1] - baseline[i])
        found.append(x[i] + (loss - baseline[i]) * slope - here)
    return np.array([*found, np.mean(found)])


seeds = Seeds()
