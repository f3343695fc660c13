"""Laws of rates as they were saved, and what rates that are not the best cost."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import fit_rates
from analysis.rates.saved import read_rates
from tests.analysis.fitting.test_results import tuned


@pytest.fixture
def path(tmp_path):
    """Of five rates in six cells, about lr* = .008 (N / 3e7)^-.3 (D / 3e9)^.1; curvature .05."""
    path = tmp_path / "rates.json"
    path.write_text(json.dumps(fit_rates(tuned()).to_dict()))
    return path


def rows(*, times=1.0, n=3):
    N = np.array([1e7, 3e7, 1e8])[:n]
    best = 0.008 * (N / 3e7) ** -0.3 * (1e10 / 3e9) ** 0.1
    names = {"series": "dense", "model": "dense", "budget": 6e18}
    return pd.DataFrame({**names, "n_params": N, "n_tokens": 1e10, "lr": times * best})


def test_a_law_is_read_back_and_a_rate_costs_by_its_distance(path):
    saved = read_rates(path)
    assert saved.curvatures["dense"] == pytest.approx(0.05, rel=0.1)
    near, far = saved.costs(rows()), saved.costs(rows(times=np.e))
    assert near.shape == (4000, 3)
    assert (near >= 0).all()
    assert near.mean() < 0.002
    assert far.mean(axis=0) == pytest.approx([0.05] * 3, rel=0.3)


def cost(law, row, curvature):
    """Mean of k e^2 over e of the law's covariance, by Student's t, and of taus."""
    x = np.array([1.0, *(np.log(getattr(row, name)) for name in law.columns)])
    off = np.log(row.lr) - x @ law.theta
    wide = law.dof / (law.dof - 2)
    return curvature * (off**2 + x @ law.covariance @ x * wide + (law.taus**2).mean())


def test_costs_are_those_of_draws_written_out(path):
    saved = read_rates(path)
    ((laws),) = [laws for laws in saved.laws if laws[0].models == ("dense",)]
    costs, k = saved.costs(rows(times=1.5)), saved.curvatures["dense"]
    for i, row in enumerate(rows(times=1.5).itertuples()):
        want = sum(law.share * cost(law, row, k) for law in laws)
        assert costs[:, i].mean() == pytest.approx(want, rel=0.1)  # 4,000 draws


def rewrite(path, **aicc):
    """AICc of the laws of all cells, by their columns; others are left out."""
    found = json.loads(path.read_text())
    (group,) = found["forms"]
    group["laws"] = [
        {**law, "aicc": aicc["_".join(law["columns"])]}
        for law in group["laws"]
        if "_".join(law["columns"]) in aicc
    ]
    group["chosen"] = min(group["laws"], key=lambda law: law["aicc"])["label"]
    path.write_text(json.dumps(found))
    return {tuple(law.columns): law.share for laws in read_rates(path).laws for law in laws}


def test_laws_that_are_not_excluded_have_akaikes_weights(path):
    shares = rewrite(path, n_params=10.0, n_tokens=12.0, n_params_n_tokens=40.0)
    whole = 1 + np.exp(-1)
    want = {("n_params",): 1 / whole, ("n_tokens",): np.exp(-1) / whole}
    assert shares == pytest.approx(want)


def test_two_laws_that_are_one_at_these_cells_count_once(path):
    shares = rewrite(path, n_params=10.0, n_tokens=10.0, n_params_n_tokens=12.0)
    whole = 1 + np.exp(-1)
    assert shares == pytest.approx(
        {("n_params",): 1 / whole, ("n_params", "n_tokens"): np.exp(-1) / whole}
    )


def test_without_a_weight_the_chosen_law_is_alone(path):
    assert rewrite(path, n_params=10.0, n_tokens=12.0)
    found = json.loads(path.read_text())
    for law in found["forms"][0]["laws"]:
        law["aicc"] = None
    path.write_text(json.dumps(found))
    ((law,),) = read_rates(path).laws
    assert (law.columns, law.share) == (("n_params",), 1.0)


def test_a_label_takes_this_law_alone(path):
    ((law,),) = read_rates(Path(f"{path}:n_tokens")).laws
    assert (law.columns, law.share) == (("n_tokens",), 1.0)
    path.rename(path.with_name("a:n_params"))  # a colon of the file's own
    assert read_rates(path.with_name("a:n_params")).laws
    with pytest.raises(ValueError, match=r"has no law 'width'; it has 'n_params \+ n_tokens', "):
        read_rates(Path(f"{path.with_name('a:n_params')}:width"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "peer", "series": "peer"}, "no law is of peer, but of dense"),
        ({"lr": np.nan}, "not all runs have a rate"),
        ({"n_params": np.nan}, "the law is of n_params"),
    ],
)
def test_runs_that_no_law_is_of_are_a_line(path, change, message):
    with pytest.raises(ValueError, match=message):
        read_rates(path).costs(rows().assign(**change))


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", '{"forms": [], "cells": []}', '{"forms": 3, "cells": []}',
     '{"forms": [{"models": ["a"], "laws": [], "chosen": "x"}], "cells": []}',
     '{"forms": [{"models": ["a"], "chosen": "x", "laws": [{"label": "x", "models": ["a"], '
     '"columns": [], "theta": [1.0, 2.0], "covariance": [[1.0]], "dof": 3, "tau": 0}]}], '
     '"cells": []}'],
)  # fmt: skip
def test_a_file_that_is_none_is_a_line(tmp_path, text):
    path = tmp_path / "rates.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"rates.json has no laws? of rates") as raised:
        read_rates(path)
    assert "\n" not in str(raised.value)
