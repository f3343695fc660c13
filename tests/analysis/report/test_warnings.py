"""Warnings grouped by what they say, whatever their numbers."""

from analysis.report.page.blocks import Warning
from analysis.report.warnings import by_cause


def causes(*texts):
    found = by_cause(Warning(of=f"model {i}", text=text) for i, text in enumerate(texts))
    return {cause.text: [warning.of for warning in cause.warnings] for cause in found.causes}


def test_numbers_that_differ_become_a_span():
    assert causes(
        "the points are 0.020 nats off it (rms): not a parabola",
        "not causal",
        "the points are 0.044 nats off it (rms): not a parabola",
        "the points are 0.033 nats off it (rms): not a parabola",
    ) == {
        "the points are 0.020 to 0.044 nats off it (rms): not a parabola": [
            "model 0",
            "model 2",
            "model 3",
        ],
        "not causal": ["model 1"],
    }


def test_the_same_number_stays():
    text = "3 budgets: one degree of freedom"
    assert causes(text, text) == {text: ["model 0", "model 1"]}


def test_quantities_and_budgets_do_not_part_a_cause():
    assert causes(
        "n_params*, loss*: 2 budgets: no error",
        "n_tokens*: 3 budgets: no error",
        "rests on 1 of 3 minima with warnings: C=3e13 (misfit)",
        "rests on 2 of 3 minima with warnings: C=3e12 (misfit, off-centre); C=1e+13 (misfit)",
    ) == {
        "2 to 3 budgets: no error": ["model 0", "model 1"],
        "rests on 1 to 2 of 3 minima with warnings": ["model 2", "model 3"],
    }


def test_the_most_frequent_comes_first():
    assert list(causes("a", "b", "b")) == ["b", "a"]
