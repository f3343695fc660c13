"""Results take on what loading said of their table, once, in Python as in the command."""

import inspect
import json
import typing

import pandas as pd
import pytest

import analysis
from analysis.__main__ import main
from analysis.fitting.results import Result
from analysis.fitting.status import FitStatus
from analysis.table.warned import warned, warnings_of_table
from tests.analysis.fitting.test_results import RESULTS, results
from tests.analysis.table.test_mixed_units import runs


def two_losses():
    """A table in which each cell has two runs that only a text tells apart."""
    parts = [runs().assign(text=text, loss=runs()["loss"] + more)
             for text, more in (("a", 0.0), ("b", 0.01))]  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def of_tables():
    """Public functions of a table whose result is a Result."""
    public = [(name, getattr(analysis, name)) for name in analysis.__all__]
    for name, function in public:
        if inspect.isfunction(function) and {"table", "used"} & {
            *inspect.signature(function).parameters
        }:
            made = typing.get_type_hints(function).get("return")
            if inspect.isclass(made) and issubclass(made, Result):
                yield pytest.param(function, id=name)


@pytest.mark.parametrize("function", [*of_tables()])
def test_each_public_function_of_a_table_takes_on_its_warnings(function):
    assert inspect.unwrap(function) is not function
    assert function.__wrapped__.__doc__ == function.__doc__


@pytest.mark.parametrize("kind", RESULTS, ids=lambda c: c.__name__)
def test_a_result_says_warnings_of_its_table_before_its_own(kind):
    plain = results()[kind]
    found = plain.with_warnings(("rows were merged",))
    assert found.warnings == ("rows were merged", *plain.warnings)
    assert found.status is not FitStatus.CONVERGED
    assert found.to_dict()["warnings"][0] == "rows were merged"
    assert found.with_warnings(("rows were merged",)).warnings == found.warnings
    assert plain.with_warnings(()) is plain


def test_a_fit_that_calls_others_says_it_once():
    table = analysis.check_table(two_losses())
    (text,) = warnings_of_table(table)
    assert "they differ in text, and" in text
    fit = analysis.fit_isoflop(table, n_draws=20)
    of_fit = [fit, analysis.compute_flatness(fit), analysis.plan(1e14, fit, model="dense")]
    of_table = [
        analysis.compare_models(table, "dense"),
        analysis.hold_out_budgets(table),
        analysis.seed_power(table, target=0.01),
    ]
    for result in (*of_fit, *of_table):
        assert [w for w in result.warnings if text in w] == [text], type(result)
        assert text in str(result)
    assert table.attrs["warnings"] == (text,)


def test_what_is_no_merging_is_said_of_a_fit_of_all_rows():
    """Where all runs count, those that share a cell are none; rows that were left out are."""

    @warned("used", by_cell=False, unless="batch")
    def fit(used, batch=None):
        assert warnings_of_table(used) == ()
        return results()[analysis.PowerLaw]

    table = analysis.check_table(two_losses())
    table.attrs["left_out"] = "left out: 2 of 5 runs"
    assert fit(table).warnings == ("left out: 2 of 5 runs",)


def test_the_command_prints_it_once_and_saves_it(tmp_path, capsys, undrawn):
    path = tmp_path / "runs.csv"
    two_losses().to_csv(path, index=False)
    for typed in ("isoflop", "parametric --draws 20"):  # a surface keeps such runs apart
        words = typed.split()
        command = [words[0], str(path), *words[1:], "--out", str(tmp_path / "out")]
        assert main(command) == 0
        said = capsys.readouterr()
        assert said.err.count("they differ in text") == 1
        assert "they differ in text" not in said.out
        saved = json.loads((tmp_path / f"out/{words[0]}.json").read_text())
        for one in [saved] if "warnings" in saved else saved.values():
            assert "they differ in text" in one["warnings"][0]
