"""A report reads each record once, makes each fit once, and says one thing of one approach."""

import inspect
import json
import sys
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from analysis.__main__ import main
from analysis.differences.models import compare_models
from analysis.experts.fit import fit_runs
from analysis.fitting.power_law import fit_frontier, fit_power_law
from analysis.isoflop.fit import fit_isoflop
from analysis.multiplier.fit import compute_multipliers
from analysis.parametric import fit_parametric
from experiments.records.files import read_record
from tests.analysis.hand_made import write_run

FITS = (
    compare_models,
    compute_multipliers,
    fit_frontier,
    fit_isoflop,
    fit_parametric,
    fit_power_law,
    fit_runs,
)
FEW = {"fit_isoflop": 20, "fit_parametric": 20, "fit_runs": 20}  # draws of a bootstrap


@pytest.fixture
def sweep(tmp_path):
    """Two models at four budgets and six sizes, peer also of more experts; two seeds of a size."""
    rng = np.random.default_rng(0)
    for model, gain, experts in (("dense", 0.0, [None]), ("peer", 0.1, [64, 256, 1024])):
        for k, budget in enumerate((2e11, 6e11, 1.8e12, 5.4e12)):
            for size in range(1, 7):
                active = 60_000 * size**1.5
                x_opt = 2.5e5 * 3 ** (0.3 * k)
                for i, n_experts in enumerate(experts if k == 0 else experts[:1]):
                    for seed in (0, 1) if size == 3 else (0,):
                        loss = 2 + 3 * 0.8**k - gain - 0.02 * i + rng.normal(0, 0.002)
                        loss += 0.08 * ((active / x_opt) ** 0.5 - 1) ** 2
                        more = {"run_id": f"{model}{k}{size}{i}{seed}", "seed": seed}
                        more |= {"n_experts": n_experts, "tables": 100 * (n_experts or 0)}
                        more["n_non_embedding_params"] = round(active - 1000 * (1 + gain))
                        write_run(tmp_path / "sweep", model, budget, size, active, loss, **more)
    return tmp_path / "sweep"


def plain(value):
    """An argument as text, so that equal ones are the same."""
    if isinstance(value, pd.DataFrame):
        return value.to_csv()
    if isinstance(value, pd.Series | np.ndarray | list | tuple):
        return repr([plain(item) for item in np.asarray(value, dtype=object).tolist()])
    cells = getattr(value, "cells", None)  # of ExpertRuns
    return repr(value) if cells is None else cells.to_csv()


@pytest.fixture
def calls(monkeypatch, undrawn):
    """(function, arguments) -> how often, wherever in the package it is called from."""
    found = Counter()

    def counted(function):
        signature = inspect.signature(function)

        def call(*given, **named):
            bound = signature.bind(*given, **named)
            bound.apply_defaults()
            found[function.__name__, *(plain(v) for v in bound.arguments.values())] += 1
            if function.__name__ in FEW and bound.arguments["n_draws"]:
                bound.arguments["n_draws"] = FEW[function.__name__]
            return function(*bound.args, **bound.kwargs)

        return call

    modules = [m for name, m in sys.modules.items() if name.split(".")[0] == "analysis"]
    for function in (*FITS, read_record):
        for module in modules:
            for name, value in list(vars(module).items()):
                if value is function:
                    monkeypatch.setattr(module, name, counted(function))
    return found


def report(folder, *options):
    assert main(["report", str(folder), "--asymptote", "1.5", *options]) == 0
    return json.loads((folder / "fits.json").read_text())


@pytest.mark.night
def test_each_fit_is_made_once_and_each_record_read_once(sweep, calls):
    fits = report(sweep)
    assert set(fits["parametric"]) >= {"dense", "peer n_experts=64"}
    assert fits["experts"]
    assert fits["differences"]
    assert fits["multipliers"]
    called = Counter(name for name, *_ in calls)
    assert set(called) == {f.__name__ for f in FITS} | {"read_record"}
    assert called["read_record"] == len(list(sweep.glob("*/record.json")))
    assert [key for key, n in calls.items() if n > 1] == []
    check_one_of_each(fits, "2 (slice)")


@pytest.mark.night
@pytest.mark.parametrize(
    ("options", "approach"),
    [
        (["--n-nearest", "3", "--x", "n_active_params"], "2 (slice)"),
        (["--n-nearest", "4", "--method", "akima", "--noise", "0.01"], "2 (akima)"),
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("calls")
def test_an_approach_has_one_exponent_and_one_optimum(sweep, options, approach):
    check_one_of_each(report(sweep, *options), approach)


def check_one_of_each(fits, approach):
    """Laws, the agreement and the surfaces of one page have the same exponents."""
    x = fits["isoflop"]["x_name"]
    laws = {law["model"]: law for law in fits["isoflop"]["laws"]}
    assert set(laws) >= {"dense", "peer n_experts=64"}
    rows = {(row["model"], row["approach"]): row for row in fits["agreement"]["rows"]}
    for model, law in laws.items():
        row = rows[model, approach]
        assert row["a"] == law["laws"][x]["params"]["exponent"]
        assert [row["a_lower"], row["a_upper"]] == law["laws"][x]["conf_int"]["exponent"]
        assert all(text in row["note"] for text in law["warnings"])
    for model, fit in fits["parametric"].items():
        alpha, beta = fit["params"]["alpha"], fit["params"]["beta"]
        assert rows[model, "3 (parametric)"]["a"] == pytest.approx(beta / (alpha + beta))
        assert all(text in rows[model, "3 (parametric)"]["note"] for text in fit["warnings"])
