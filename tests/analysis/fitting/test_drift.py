"""Laws whose exponent may drift: against Student's t, a slow form, and walks that are drawn."""

import numpy as np
import pytest
from scipy import optimize, special, stats

from analysis.fitting import drift
from analysis.fitting.drift import DriftingLaw

X = np.log(np.geomspace(1e18, 1e20, 5))
FAR = np.log([1e21, 3e17, 1e23])


def noisy_line(seed, sd=0.05, slope=0.48):
    return 1.0 + slope * (X - 40) + np.random.default_rng(seed).normal(0, sd, len(X))


def test_without_drift_it_is_student_s_t(monkeypatch):
    monkeypatch.setattr(drift, "DRIFT", 0.0)
    y = noisy_line(0)
    found = DriftingLaw(log_x=X, log_y=y, has_floor=False).predict(FAR)
    line = stats.linregress(X, y)
    left = y - line.intercept - line.slope * X
    dx = X - X.mean()
    se = np.sqrt(left @ left / 3 * (1 / 5 + (FAR - X.mean()) ** 2 / (dx @ dx)))
    expected = line.intercept + line.slope * FAR
    np.testing.assert_allclose(np.log(found.value), expected, rtol=1e-6)
    half = stats.t.ppf(0.975, 3) * se
    # 2 %: the scatters are a grid that ends at 30 times the scatter
    np.testing.assert_allclose(np.log(found.upper) - expected, half, rtol=0.02)
    np.testing.assert_allclose(expected - np.log(found.lower), half, rtol=0.02)


def slow(x, y, at, floors, share, common):
    """Where the mixture has this share below it: a loop over floors and scatters, the walk as a sum
    over 4,000 steps, and level and slope by Rasmussen & Williams 2006, eq. 2.42 and 2.45.
    """
    origin = min(x.min(), at)
    steps = np.linspace(origin, max(x.max(), at), 4001)
    ds = steps[1] - steps[0]
    every = np.append(x, at)
    levers = np.maximum(every[:, None] - steps[:-1] - ds / 2, 0)
    walk = levers @ levers.T * ds / np.log(10)
    H = np.stack([np.ones_like(x), x - x.mean()])
    h = np.array([1.0, at - x.mean()])
    logs, places, spreads, of_floor = [], [], [], []
    for floor in floors:
        z, gain = np.log(np.exp(y) - floor), np.exp(y) / (np.exp(y) - floor)
        slope, level = np.polyfit(x, z, 1)
        off = (z - level - slope * x) / gain
        about = np.sqrt(off @ off / (len(x) - 2))
        for times in np.geomspace(1e-2, 30, 48):
            prior = (drift.DRIFT * slope) ** 2 * walk
            noise = (times * about) ** 2 * np.eye(len(x)) + common
            V = np.linalg.inv(prior[:-1, :-1] + np.diag(gain) @ noise @ np.diag(gain))
            A = H @ V @ H.T
            line = np.linalg.solve(A, H @ V @ z)
            R = h - H @ V @ prior[:-1, -1]
            left = z - line @ H
            logs.append(
                np.log(gain).sum()
                + np.linalg.slogdet(V)[1] / 2
                - np.linalg.slogdet(A)[1] / 2
                - left @ V @ left / 2
            )
            places.append(h @ line + prior[-1, :-1] @ V @ left)
            variance = prior[-1, -1] - prior[-1, :-1] @ V @ prior[:-1, -1]
            spreads.append(np.sqrt(variance + R @ np.linalg.solve(A, R)))
            of_floor.append(floor)
    weights = special.softmax(logs)

    def below(log_y):
        above = np.maximum(np.exp(log_y) - of_floor, 1e-300)
        return weights @ stats.norm.cdf((np.log(above) - places) / spreads) - share

    return optimize.brentq(below, -30, 60)


@pytest.mark.parametrize("common", [0.0, 0.003])
@pytest.mark.parametrize("has_floor", [False, True])
def test_it_is_the_slow_form(has_floor, common):
    y = np.log(1.7 + 300 * np.exp(-0.14 * X)) + 0.002 * np.random.default_rng(1).normal(size=5)
    if not has_floor:
        y = noisy_line(1)
    shared = np.full((5, 5), common**2)
    floors = np.exp(y.min()) * np.linspace(0, 1, 42)[:-1] if has_floor else [0.0]
    law = DriftingLaw(log_x=X, log_y=y, has_floor=has_floor, common=shared if common else None)
    found = law.predict(FAR, 0.9)
    for i, at in enumerate(FAR):
        for share, ours in ((0.5, found.value), (0.05, found.lower), (0.95, found.upper)):
            theirs = slow(X, y, at, floors, share, shared)
            # 1e-4 of ln y: the steps of the sum, and weights below 1e-9 that are left out
            assert np.log(ours[i]) == pytest.approx(theirs, abs=1e-4)


def test_exact_and_constant_points_are_no_trouble():
    for slope in (0.48, 0.0):
        found = DriftingLaw(log_x=X, log_y=1.1 + slope * (X - 40), has_floor=False).predict(FAR)
        np.testing.assert_allclose(np.log(found.value), 1.1 + slope * (FAR - 40), rtol=1e-3)
        assert np.isfinite([found.lower, found.upper]).all()
    twice = DriftingLaw(log_x=np.repeat(X, 2), log_y=np.repeat(0.48 * X, 2), has_floor=False)
    assert np.isfinite(np.array(twice.predict(FAR)[:3])).all()


def test_intervals_hold_what_drifts_as_it_says():
    """Exponents that walk by DRIFT of themselves a decade, in 300 draws; three standard errors."""
    rng, held, fine = np.random.default_rng(5), 0, 400
    u = np.linspace(0, 3, 3 * fine + 1)  # decades from 1e18 to 1e21
    for _ in range(300):
        steps = rng.normal(0, drift.DRIFT * 0.5 / np.sqrt(fine), len(u))
        log_y = np.cumsum(0.5 + np.cumsum(steps)) / fine * np.log(10)
        seen = [0, fine // 2, fine, 3 * fine // 2, 2 * fine]
        y = log_y[seen] + rng.normal(0, 0.02, 5)
        found = DriftingLaw(log_x=u[seen] * np.log(10), log_y=y, has_floor=False)
        low, high = np.log(np.array(found.predict(np.array([3 * np.log(10)]))[1:3]))[:, 0]
        held += low <= log_y[-1] <= high
    assert held / 300 == pytest.approx(0.95, abs=0.04)
