"""Each topic is answered from what is known; what is not stays None and is not made up."""

import dataclasses

import pandas as pd
import pytest

from analysis.experts.compare import compare_laws
from analysis.isoflop.fit import fit_isoflop
from analysis.parametric import fit_parametric
from analysis.report.checklist import fill_checklist
from analysis.report.provenance import Provenance
from analysis.synthetic import (
    ChinchillaSurface,
    ClarkSurface,
    simulate_experts,
    simulate_isoflop,
)
from analysis.table.load import check_table, load_table
from analysis.validation.hold_out import hold_out_budgets
from tests.analysis.hand_made import runs

SETTINGS = {
    "corpus": "WikiText2",
    "tokenizer": "TrainedBPE",
    "vocabulary": "2048",
    "sequence length": "256",
    "sequences a batch": "4",
    "ladder": "cpu",
    "blocks with the layer": "middle",
    "peak learning rate": "varies: 0.01, 0.02",
    "schedule": "cosine",
    "weight decay": "0.1",
    "Adam's betas": "0.9 and 0.95",
    "precision": "bf16-mixed",
}


def answers(table=None, provenance=None, **fits):
    topics = fill_checklist(
        check_table(runs()) if table is None else table, provenance or Provenance(), **fits
    )
    found = dict(topics)
    assert len(found) == len(topics)  # each topic once
    assert "" not in found.values()  # nothing is None, not empty
    return found


@pytest.fixture(scope="module")
def curves():
    return simulate_isoflop(ChinchillaSurface(), [1e17, 1e18, 1e19, 1e20], 6, noise=0.003)


# A table of which nothing else is known

UNKNOWN = (
    "Formula of each law",
    "Data and tokenizer",
    "Passes over the data",
    "Sequence and batch",
    "Optimiser and schedule",
    "Learning rate",
    "How width, depth and heads grow",
    "How FLOPs are counted",
    "Code",
    "Hardware and precision",
    "Seeds",
    "Is the evaluation causal?",
    "Objective",
    "Held-out validation",
    "Checkpoints used",  # published tables do hold several of a run, and runs cut short
    "Optimiser and starting points",
    "Intervals",
)


def test_what_is_not_known_is_not_answered():
    found = answers()
    assert [topic for topic in UNKNOWN if found[topic] is not None] == []
    table = check_table(runs(budget=None, flops_per_token=6e6))
    assert answers(table)["How FLOPs are counted"] is None


def test_what_a_bare_table_tells_is():
    found = answers()
    assert found["Models"] == "model"
    assert found["Runs"].startswith("3 done, 0 failed, 0 diverged")
    assert found["Runs or budgets excluded from a fit"] == "none"
    assert found["Ranges of the variables"] == (
        "n_params 1M to 4M; n_active_params 1M to 4M; n_tokens 250M to 1B; budget 6e15 to 6e15"
    )
    assert "as the table gave them" in found["What N counts"]
    assert "3 rows have no status" in found["What the table left open"]


# Causality


NOT_OF = "not of {}: their routing sees later tokens"


@pytest.mark.parametrize(
    ("columns", "answer"),
    [
        ({"causal_eval": [True, True, True]}, "yes"),
        ({"causal_eval": [True, None, True]}, None),
        ({"causal_eval": [None, None, None]}, None),
        ({"causal_eval": [True, False, None]}, NOT_OF.format("model")),
        ({"causal_eval": [False, True, None], "model": ["moe", "peer", "a"]}, NOT_OF.format("moe")),
        # failed runs say nothing of it
        ({"causal_eval": [True, True, False], "status": ["done", "done", "failed"]}, "yes"),
        ({"status": "failed"}, None),
    ],
)
def test_causality_is_claimed_where_every_run_says_so(columns, answer):
    assert answers(check_table(runs(**columns)))["Is the evaluation causal?"] == answer


# Training


def test_settings_are_where_they_belong():
    found = answers(
        provenance=Provenance(
            settings=SETTINGS,
            commits=("0123456789ab", "ba9876543210"),
            uncommitted="of 3 records: 1 of an unknown commit",
            devices=("H100",),
        )
    )
    assert found["Data and tokenizer"] == (
        "corpus: WikiText2; tokenizer: TrainedBPE; vocabulary: 2048"
    )
    assert found["Sequence and batch"] == "sequence length: 256; sequences a batch: 4"
    assert found["Optimiser and schedule"] == (
        "Adam's betas: 0.9 and 0.95; weight decay: 0.1; schedule: cosine"
    )
    assert found["Learning rate"] == "peak learning rate: varies: 0.01, 0.02"
    assert found["How width, depth and heads grow"] == "ladder: cpu; blocks with the layer: middle"
    assert found["Code"] == "0123456789ab, ba9876543210; of 3 records: 1 of an unknown commit"
    assert found["Hardware and precision"] == "H100; precision: bf16-mixed"
    assert answers(provenance=Provenance(devices=("H100",)))["Hardware and precision"] == "H100"


def test_learning_rates_are_counted_in_each_cell():
    table = check_table(
        pd.concat([runs(lr=lr) for lr in (1e-3, 2e-3)], ignore_index=True).iloc[:-1]
    )
    assert answers(table)["Learning rate"].startswith("1 to 2")
    assert answers(check_table(runs(lr=1e-3)))["Learning rate"].startswith("1 ")


def test_seeds_are_counted_in_each_cell():
    frame = pd.concat([runs(lr=1e-3, seed=seed) for seed in (0, 1, 2)], ignore_index=True)
    assert answers(check_table(frame))["Seeds"] == "3 a cell"
    assert answers(check_table(frame.iloc[:-1]))["Seeds"] == "2 to 3 a cell"
    # Learning rates are no seeds
    other = frame.assign(lr=[1e-3 * (i // 3 + 1) for i in range(9)])
    assert answers(check_table(other))["Seeds"] == "1 a cell"


def test_repeats_of_the_data_are_the_worst():
    assert answers(check_table(runs(epochs=[0.5, 2.25, None])))["Passes over the data"] == (
        "at most 2.25"
    )


def test_a_6nd_that_was_asked_for_is_reported():
    table = check_table(runs(budget=None), flops="6nd")
    assert "6 n_active_params" in answers(table)["How FLOPs are counted"]
    assert "wrong where attention" in answers(table)["How FLOPs are counted"]


def test_a_sweep_s_own_count_is_reported(sweep):
    found = answers(load_table(sweep), Provenance(settings=SETTINGS))
    assert found["How FLOPs are counted"].startswith("by each run, term by term")
    assert found["Checkpoints used"].startswith("the end of each run only")
    assert found["Runs"].startswith("30 done, 1 failed, 0 diverged")
    assert found["Is the evaluation causal?"] == "not of moe: their routing sees later tokens"
    assert found["Models"] == "peer, dense, moe"
    assert found["What N counts"].endswith("not in n_non_embedding_params")


# Fits


def test_forms_and_objectives_are_those_fitted(curves):
    fit = fit_isoflop(curves, method="akima", n_nearest=5, n_draws=0)
    surface = fit_parametric(curves["n_params"], curves["n_tokens"], curves["loss"], n_draws=0)
    table = simulate_experts(ClarkSurface(), [1e7, 1e8, 1e9], [1, 4, 16, 64], noise=0.01)
    experts = compare_laws(table, ["loglinear", "power_floor"], n_draws=0)
    found = answers(curves, isoflop=fit, parametric=[surface, surface], experts=[experts])
    forms = found["Formula of each law"].split("; ")
    assert forms[0].startswith("isoFLOP: Akima interpolation in ln-ln n_params")
    assert forms[1:] == [surface.form, *(f.form for f in experts.fits)]  # each once
    objective = found["Objective"]
    assert "isoFLOP curves and laws: least squares" in objective
    assert "parametric: Huber, delta 0.001 of the log loss, summed" in objective
    assert "experts: least squares of ln L" in objective
    share = f"{surface.share_at_best:.0%} of {surface.n_starts} starts reached the best"
    assert found["Optimiser and starting points"].count(share) == 1
    assert "only the 5 sizes nearest" in found["Runs or budgets excluded from a fit"]


def test_an_objective_is_named_as_it_was(curves):
    fit = fit_parametric(
        curves["n_params"], curves["n_tokens"], curves["loss"],
        residual="loss", delta=float("inf"), n_draws=0,
    )  # fmt: skip
    assert answers(curves, parametric=[fit])["Objective"] == (
        "parametric: least squares of the loss, summed"
    )
    fit = dataclasses.replace(fit, residual="log", delta=0.1)
    assert "Huber, delta 0.1 of the log loss" in answers(curves, parametric=[fit])["Objective"]


def test_what_was_left_out_is_reported(curves):
    best = ChinchillaSurface().optimum(curves["budget"])[0]
    beyond = (curves["budget"] == 1e20) & (curves["n_params"] > 0.8 * best)
    few = (curves["budget"] == 1e17) & (curves["n_params"] > best)
    table = curves[~(beyond | few)].reset_index(drop=True)
    fewer = table.drop(table.index[table["budget"] == 1e17][0])
    fit = fit_isoflop(fewer, n_draws=0)
    assert fit.skipped
    assert fit.laws[0].excluded
    text = answers(fewer, isoflop=fit)["Runs or budgets excluded from a fit"]
    assert fit.skipped[0] in text
    assert f"dense: {fit.laws[0].excluded[0]}" in text


def test_held_out_errors_are_the_worst(curves):
    found = hold_out_budgets(curves)
    worst = found.to_frame()["relative_error"].abs().max()
    assert answers(curves, hold_out=found)["Held-out validation"].startswith(
        f"the 2 largest budgets: errors up to {worst:.2%}, {len(found.warnings)} warning"
    )
