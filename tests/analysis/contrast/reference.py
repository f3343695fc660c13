"""Curves of all layers and budgets together, written out: nonlinear least squares in the lowest
losses, best sizes and the curvature, intervals by holding a difference and fitting the rest.
"""

import numpy as np
from scipy import optimize, stats


class Reference:
    """runs: a table with layer, budget, size, loss, a row a seed; classes: layer -> class; scatter:
    (class, budget) whose noise is the scatter about the curves, of others that of seeds.
    """

    def __init__(self, runs, classes, scatter=(), added=False):
        means = runs.groupby(["layer", "budget", "size"])["loss"].agg(["mean", "count", "var"])
        means = means.reset_index()
        self.u, self.y = np.log(means["size"].to_numpy(float)), means["mean"].to_numpy(float)
        self.u -= self.u.mean()
        n = means["count"].to_numpy(int)
        self.cells = sorted(set(zip(means["layer"], means["budget"], strict=True)))
        self.layers, self.budgets = sorted(set(means["layer"])), sorted(set(means["budget"]))
        each = list(zip(means["layer"], means["budget"], strict=True))
        self.of, self.added = np.array([self.cells.index(cell) for cell in each]), added
        self.group = [(classes[layer], budget) for layer, budget in each]
        within = means["var"].fillna(0).to_numpy() * (n - 1)
        self.sd2, self.dof = {}, {}
        for g in sorted(set(self.group)):
            own = np.array([name == g for name in self.group])
            self.dof[g] = (n - 1)[own].sum()
            self.sd2[g] = 1.0 if g in scatter else within[own].sum() / self.dof[g]
        for _ in range(150 if scatter else 1):
            var = [self.sd2[g] / (1 if g in scatter else k) for g, k in zip(self.group, n)]
            self.var = np.array(var)
            self.best = self._fit(self.y, start=getattr(self, "best", None))
            J = self.jacobian(self.best) / np.sqrt(self.var)[:, None]
            free = 1 - np.diag(J @ np.linalg.pinv(J))
            off2 = (self.y - self.curve(self.best)) ** 2
            for g in scatter:
                own = np.array([name == g for name in self.group])
                self.sd2[g], self.dof[g] = off2[own].sum() / free[own].sum(), free[own].sum()

    def unpack(self, theta):
        k, m = len(self.cells), len(self.layers)
        if not self.added:
            return theta[:k], theta[k:-1], theta[-1]
        layer, budget = theta[k : k + m], np.append(0.0, theta[k + m : -1])
        at = [layer[self.layers.index(a)] + budget[self.budgets.index(b)] for a, b in self.cells]
        return theta[:k], np.array(at), theta[-1]

    def curve(self, theta):
        lowest, place, bend = self.unpack(theta)
        return lowest[self.of] + bend * (self.u - place[self.of]) ** 2

    def jacobian(self, theta):
        """Curves (S,) by lowest losses, best sizes or their parts, and the curvature."""
        _, place, bend = self.unpack(theta)
        cell = np.eye(len(self.cells))[self.of]
        away = self.u - place[self.of]
        parts = cell
        if self.added:
            layer = [[float(a == name) for name in self.layers] for a, _ in self.cells]
            budget = [[float(b == name) for name in self.budgets[1:]] for _, b in self.cells]
            parts = np.hstack([layer, budget])[self.of]
        return np.column_stack([cell, -2 * bend * away[:, None] * parts, away**2])

    def _fit(self, y, hold=None, start=None):
        """hold: (i, j, difference of the lowest losses of cells i and j)."""
        k = len(self.cells)
        n_places = len(self.layers) + len(self.budgets) - 1 if self.added else k
        if start is None:
            lowest = [y[self.of == i].min() for i in range(k)]
            start = np.concatenate([lowest, np.zeros(n_places), [1]])
        tie = np.eye(len(start))
        if hold is not None:  # theta = tie x + shift
            i, j, d = hold
            tie[i, j] = 1
            tie = np.delete(tie, i, axis=1)
            start = np.delete(start, i)
        shift = np.zeros(len(tie)) if hold is None else d * (np.arange(len(tie)) == i)
        sd = np.sqrt(self.var)

        def off(x):
            return (self.curve(tie @ x + shift) - y) / sd

        def by(x):
            return self.jacobian(tie @ x + shift) @ tie / sd[:, None]

        x = optimize.least_squares(off, start, by).x
        for _ in range(8):  # to the last digits, where the sum of squares no longer tells
            x = x - np.linalg.lstsq(by(x), off(x))[0]
        return tie @ x + shift

    def difference(self, one, other, level=0.95):
        """value, lower, upper, dof."""
        i, j = self.cells.index(one), self.cells.index(other)
        moved = []
        for s in range(len(self.y)):  # Satterthwaite: how the difference goes with each point
            one_up = np.arange(len(self.y)) == s
            up, down = (self._fit(self.y + h * one_up, start=self.best) for h in (1e-4, -1e-4))
            moved.append((up[i] - up[j] - down[i] + down[j]) / 2e-4)
        parts = dict.fromkeys(self.dof, 0.0)
        for g, by, v in zip(self.group, moved, self.var, strict=True):
            parts[g] += by**2 * v
        dof = sum(parts.values()) ** 2 / sum(p**2 / self.dof[g] for g, p in parts.items())
        t, value = stats.t.ppf((1 + level) / 2, dof), self.best[i] - self.best[j]
        least = self.chi2(self.best)

        def beyond(d):
            return self.chi2(self._fit(self.y, (i, j, d), self.best)) - least - t**2

        step = 3 * t * np.sqrt(sum(parts.values()))
        ends = [optimize.brentq(beyond, *sorted((value, value + s * step))) for s in (-1, 1)]
        return value, *ends, dof

    def chi2(self, theta):
        return float(((self.y - self.curve(theta)) ** 2 / self.var).sum())
