"""Losses that turn at a number of experts: named, with by how much, and seldom of noise alone."""

import numpy as np

from analysis.experts.fit import fit_expert_law
from analysis.laws.law import Variables
from analysis.laws.turn import CHANCE, _chance, turns_with_experts
from tests.analysis.expert_laws import EXPERTS, SIZES, runs_of
from tests.analysis.experts.simulated import rising
from tests.analysis.tables import expert_runs

N, E = (v.ravel() for v in np.meshgrid(SIZES, np.float64(EXPERTS), indexing="ij"))
LINE = np.stack([np.ones_like(E), np.log(N), np.log(E)], axis=1)
LOSS = np.full(len(E), 3.0)


def off_by(turn, slope, sd=0.01, seed=0):
    """What a line in ln N and ln E misses of ln L with a turn, the line less the runs."""
    noise = np.random.default_rng(seed).normal(0, sd, len(E))
    missed = slope * np.maximum(np.log(E / turn), 0) + noise
    return LINE @ np.linalg.lstsq(LINE, missed)[0] - missed


def test_a_turn_is_named_with_its_slope():
    said = turns_with_experts(Variables.of(N=N, E=E), off_by(64, 0.02, sd=1e-4), LINE, LOSS)
    assert said is not None
    assert said.startswith("losses turn at 64 experts: beyond, they rise by 0.042 nats a doubling")
    down = turns_with_experts(Variables.of(N=N, E=E), off_by(8, -0.02, sd=1e-4), LINE, LOSS)
    assert down is not None
    assert "at 8 experts: beyond, they fall by 0.042 nats" in down


def test_its_chance_is_that_of_noise_about_the_law():
    """Beside draws of noise in every run, each with least squares of law and slope as they are."""
    hinges = np.maximum(np.log(E)[:, None] - np.log(EXPERTS[1:-1]), 0)
    free = hinges - LINE @ np.linalg.lstsq(LINE, hinges)[0]

    def share(y):
        squares = [np.linalg.lstsq(LINE, y)[1][0]]
        for hinge in hinges.T:
            squares.append(np.linalg.lstsq(np.column_stack([LINE, hinge]), y)[1][0])
        return 1 - min(squares) / squares[0]

    rng = np.random.default_rng(1)
    drawn = np.array([share(rng.normal(size=len(E))) for _ in range(800)])
    for level in (0.5, 0.9):
        found = _chance(np.quantile(drawn, level), free / np.linalg.norm(free, axis=0), len(E) - 3)
        # four standard errors of 800 draws
        assert abs(found - (1 - level)) < 4 * np.sqrt(level * (1 - level) / 800)


def test_noise_alone_is_seldom_a_turn():
    seen = [
        turns_with_experts(Variables.of(N=N, E=E), off_by(64, 0, seed=s), LINE, LOSS) is not None
        for s in range(40)
    ]
    assert sum(seen) <= 4  # of a binomial distribution of CHANCE: 1 in 20,000 has more
    assert CHANCE == 0.01


def test_too_few_numbers_of_experts_say_nothing():
    kept = E <= 4
    at = Variables.of(N=N[kept], E=E[kept])
    off = off_by(2, 0.05, sd=1e-4)[kept]
    assert turns_with_experts(at, off, LINE[kept], LOSS[kept]) is None


def test_a_rise_is_a_warning_of_a_law_that_falls():
    fit = fit_expert_law(expert_runs(rising, SIZES, EXPERTS, noise=0.01, seed=3), n_draws=0)
    assert any(text.startswith("losses turn at") for text in fit.warnings)
    clean = fit_expert_law(runs_of("power_floor", noise=0.01, seed=3), n_draws=0)
    assert clean.warnings == ()
