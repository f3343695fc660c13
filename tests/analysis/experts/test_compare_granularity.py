"""Laws of experts are compared on the same runs, the granularity law too, or not at all."""

import math

import numpy as np
import pandas as pd
import pytest

from analysis.experts.compare import compare_laws
from analysis.experts.fit import fit_expert_law
from analysis.table.load import check_table


def by_form(comparison, name="held_out_rmse"):
    return {law.form_name: getattr(law, name) for law in comparison.laws}


def granular(sizes=(1e7, 1e8, 1e9), **columns):
    rng = np.random.default_rng(0)
    rows = [
        {
            "model": "moe",
            "n_params": N * E,
            "n_active_params": N,
            "n_tokens": 1e9,
            "n_experts": E,
            "granularity": G,
            "loss": (0.5 + (2 * G**-0.5 + 18) * N**-0.12 * E**-0.03)
            * math.exp(rng.normal(0, 3e-3)),
            "status": "done",
            **columns,
        }
        for N in sizes
        for E in (4, 16, 64)
        for G in (1, 2, 4, 8)
    ]
    return check_table(pd.DataFrame(rows))


def test_every_form_is_of_the_same_runs():
    compared = compare_laws(granular(), ["power_floor", "granularity"], n_draws=0)
    assert {fit.form_name: fit.n_points for fit in compared.fits} == {
        "power_floor": 36, "granularity": 36,
    }  # fmt: skip
    assert compared.n_points == 36
    for fit in compared.fits:
        assert fit.aicc == by_form(compared, "aicc")[fit.form_name]


def test_forms_that_can_not_be_of_one_table_are_named():
    both = ["power_floor", "granularity"]
    with pytest.raises(ValueError, match="form=granularity needs n_tokens: the table has none"):
        compare_laws(granular().assign(n_tokens=np.nan), both, n_draws=0)
    with pytest.raises(ValueError, match="form=power_floor needs n_experts"):
        compare_laws(granular().assign(n_experts=pd.NA), both, model="moe", n_draws=0)
    heads = granular().assign(n_heads=pd.array([1, 2, 4, 8] * 9, "Int64"))
    with pytest.raises(ValueError, match=r"several n_heads .*: power_floor can't distinguish them"):
        compare_laws(heads, both, n_draws=0)
    with pytest.raises(ValueError, match=r"counts the experts .*form='power_floor'"):
        compare_laws(granular(), both, size="n_params", n_draws=0)
    assert compare_laws(heads, ["granularity"], n_draws=0).n_points == 12


def test_experts_held_out_of_a_law_without_them_are_not_seen():
    table = granular()
    compared = compare_laws(table, ["granularity"], hold_out="experts", n_draws=0)
    assert compared.held_out == "n_experts = 64, the largest"
    blind = fit_expert_law(table[table["n_experts"] < 64], "granularity", n_draws=0)
    assert compared.n_points == 36
    assert blind.n_points == 12  # alone: the best of any number of experts
    assert math.isfinite(by_form(compared)["granularity"])


def test_granularity_is_compared_where_it_is_all_that_varies():
    one = granular(sizes=(1e7, 3e7, 1e8, 1e9))  # of which three are left
    one = one[one["n_experts"] == 16]
    compared = compare_laws(one, ["granularity"], n_draws=0)
    assert compared.n_points == 16
    assert by_form(compared, "rmse")["granularity"] < 0.02
    assert math.isfinite(by_form(compared)["granularity"])
