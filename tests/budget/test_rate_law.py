"""Rates of a plan by a fitted law, beside what the analysis itself says of that law."""

import json

import pandas as pd
import pytest

from analysis.rates.fit import fit_rates
from analysis.table.load import check_table
from experiments.budget.rate_law import rate_by_law
from tests.analysis.rates.made import grid_of


@pytest.fixture(scope="module")
def fitted():
    return fit_rates(check_table(grid_of()))


@pytest.fixture(scope="module")
def path(fitted, tmp_path_factory):
    path = tmp_path_factory.mktemp("law") / "rates.json"
    path.write_text(json.dumps(fitted.to_dict()))
    return path


def _model(fitted):
    return fitted.forms[0].models[0]


@pytest.mark.parametrize("form", [None, "n_params", "constant"])
def test_a_rate_is_that_of_the_analysis(fitted, path, form):
    forms = fitted.forms[0]
    law = forms.law if form is None else next(one for one in forms.laws if one.label == form)
    values = {"n_params": 2e7, "n_tokens": 2e9, "d_model": 64}
    found = rate_by_law(path, form, _model(fitted), values)
    at = {name: [values[name]] for name in law.columns}
    expected = law.predict(at, level=0.95)
    assert found.lr == pytest.approx(float(expected.value[0]), rel=1e-9)
    assert found.interval[0] == pytest.approx(float(expected.lower[0]), rel=1e-6)
    assert found.interval[1] == pytest.approx(float(expected.upper[0]), rel=1e-6)
    assert found.outside == (), "d_model is no column of these cells"
    assert f"{found.lr:.2e}" in found.describe()
    assert "warning" not in found.describe()


def test_outside_of_the_cells_is_flagged_with_the_factor_and_far_outside_refused(fitted, path):
    largest = fitted.forms[0].law.ranges["n_params"][1]
    near = {"n_params": 4 * largest, "n_tokens": 2e9}
    found = rate_by_law(path, None, _model(fitted), near)
    (outside,) = found.outside
    assert (outside.factor, outside.column) == (pytest.approx(4), "n_params")
    text = "warning: n_params=4e+08 is 4 times outside of the law's cells (1e+07 to 1e+08)"
    assert found.describe().endswith(text)
    with pytest.raises(ValueError, match=r"n_params=.* is 11 times outside .* 10 times is allowed"):
        rate_by_law(path, None, _model(fitted), {**near, "n_params": 11 * largest})


def test_each_column_of_the_cells_is_checked_though_the_law_is_not_of_it(tmp_path):
    """A constant law, of cells of one depth: it says nothing of other depths, lengths or sizes."""
    fitted = fit_rates(check_table(grid_of().assign(n_layers=8)))
    path = tmp_path / "rates.json"
    path.write_text(json.dumps(fitted.to_dict()))
    values = {"n_params": 3e7, "n_tokens": 8e10, "n_layers": 4}
    found = rate_by_law(path, "constant", _model(fitted), values)
    assert [str(one) for one in found.outside] == [
        "n_tokens=8e+10 is 5 times outside of the law's cells (1e+09 to 1.6e+10)",
        "n_layers=4 is 2 times outside of the law's cells (8)",
    ]
    assert found.describe().count("; warning: ") == 2
    with pytest.raises(ValueError, match=r"n_layers=100 is 12.5 times outside .* \(8\), and 10"):
        rate_by_law(path, "constant", _model(fitted), {**values, "n_layers": 100})


def test_what_is_no_law_of_the_point_is_refused_in_a_line(fitted, path, tmp_path):
    model = _model(fitted)
    values = {"n_params": 2e7, "n_tokens": 2e9}
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps({"forms": [{"chosen": "x", "laws": [{"label": "x"}]}]}))
    for arguments, why in (
        ((tmp_path / "none.json", None, model, values), "is not there; give the rates.json"),
        ((broken, None, model, values), "has no laws of rates"),
        ((path, None, "moe", values), f"has no law of moe, but of {model}"),
        ((path, "depth", model, values), "law_form=depth is not a law of"),
        ((path, None, model, {"n_params": 2e7}), "is of n_tokens, and a plan knows n_params"),
    ):
        with pytest.raises(ValueError, match=why) as error:
            rate_by_law(*arguments)
        assert "\n" not in str(error.value)


def test_a_law_of_few_cells_does_not_come_before_one_of_several_models(tmp_path):
    """By three cells AICc takes a constant; by both models' six it can see the size."""
    rows = grid_of(0.001)
    table = pd.concat([rows[rows["n_tokens"] == 1e9].assign(model=name) for name in ("a", "b")])
    fitted = fit_rates(check_table(table.reset_index(drop=True)), method="parabola")
    alone, _, both = fitted.forms
    assert (alone.law.label, both.law.label) == ("constant", "n_params")
    path = tmp_path / "rates.json"
    path.write_text(json.dumps(fitted.to_dict()))
    found = rate_by_law(path, None, "a", {"n_params": 3e7, "n_tokens": 1e9})
    want = both.law.predict({"n_params": [3e7]}, model="a")
    assert found.lr == pytest.approx(float(want.value[0]), rel=1e-9)
