"""Tables of SLDBench's kind: made ones come back, and what can't be answered says so."""

import numpy as np
import pandas as pd
import pytest

from analysis import benchmark
from analysis.benchmark import sld
from analysis.benchmark.task import Answer
from analysis.fitting.intervals import Prediction
from tests.analysis.surfaces.made_forms import MADE
from tests.analysis.tables import HOFFMANN, surface


def rows(sizes, tokens, seed: int) -> pd.DataFrame:
    N, D = (v.ravel() for v in np.meshgrid(sizes, tokens))
    noise = np.exp(np.random.default_rng(seed).normal(0, 0.002, len(N)))
    return pd.DataFrame({"N": N, "D": D, "loss": surface(N, D, **HOFFMANN) * noise})


@pytest.fixture
def folder(tmp_path):
    """Size and tokens, with hidden rows of four times the size; a vocabulary beside them."""
    rows(np.geomspace(1e8, 1e9, 6), np.geomspace(2e9, 5e10, 5), 0).to_csv(
        tmp_path / "made_fit.csv", index=False
    )
    rows([2e9, 4e9], np.geomspace(2e9, 5e10, 5), 1).to_csv(
        tmp_path / "made_hidden.csv", index=False
    )
    pd.DataFrame({"vocab_size": [1.0], "Lossu": [-1.0]}).to_csv(tmp_path / "vocabulary_train.csv")
    return tmp_path


def test_scores_by_hand():
    measured = np.array([1.0, 2.0, 3.0])
    value = np.array([1.0, 2.0, 4.0])
    band = Prediction(value, value - 0.5, value + 0.5, 0.95)
    found = sld.score(measured, Answer(predicted=band, chosen="", warnings=()))
    assert found == {
        "n_hidden": 3, "r2": 0.5, "nmse": 0.5, "nmae": 0.5, "inside": pytest.approx(2 / 3),
        "width": 1.0,
    }  # fmt: skip


def test_a_made_table_is_said_beyond_its_rows(folder, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["benchmark", "sld", str(folder)])
    benchmark.main()
    shown = capsys.readouterr().out
    assert "vocabulary lacks non_vocab_parameters, num_characters; " in shown
    assert "sft_scaling_law: no table of it was scored: it needs sft_data_size, sft_loss" in shown
    assert "easy_question_scaling_law: not scored: no law here is in its columns" in shown
    assert "nan" not in shown.lower()
    made, vocabulary = sld.run(folder)
    assert (made["task"], made["n_fit"], made["n_hidden"]) == ("made", 30, 10)
    assert made["r2"] > 0.95
    assert made["inside"] >= 0.9
    assert "r2" not in vocabulary


def test_without_hidden_rows_the_largest_are_withheld(folder):
    (folder / "made_hidden.csv").unlink()
    made, _ = sld.run(folder)
    assert made["n_fit"] + made["n_hidden"] == 30
    assert made["warnings"][0].startswith("no hidden rows")
    assert "human_r2" not in made


@pytest.mark.parametrize(
    ("hidden", "says"),
    [
        ("N,D\n1e9,1e10\n", "made_hidden.csv lacks loss"),
        ("N,D,loss\n1e9,1e10,\n2e9,1e10,\n", "rows without loss (2 of 2) are left out"),
        ("N,D,loss\n1e9,1e10,2\n2e9,1e10,2\n", "all 2 hidden losses are the same"),
        ("N,D,loss\n1e9,-1,2\n2e9,1e10,2.5\n", "n_tokens"),
    ],
)
def test_what_is_not_scored_says_why(folder, hidden, says):
    (folder / "made_hidden.csv").write_text(hidden)
    made, _ = sld.run(folder)
    assert "r2" not in made
    assert made["warnings"][0].startswith("not scored: ")
    assert says in made["warnings"][0]


# Theirs, of our columns
_NAMES = {
    "non_embedding_param_size": "n_params", "data_size": "n_tokens", "bsz": "batch",
    "Non_vocab_parameters": "n_non_vocab_params", "num_characters": "n_characters",
    "sft_data_size": "n_examples", "num_params": "n_params", "parallel_size": "n_streams",
}  # fmt: skip


@pytest.mark.parametrize(
    ("form", "theirs", "loss", "size"),
    [
        (
            "step_law",
            ["non_embedding_param_size", "data_size", "lr", "bsz"],
            "lm_loss",
            "data_size",
        ),
        (
            "vocabulary_and_text",
            ["Non_vocab_parameters", "vocab_size", "num_characters"],
            "Lossu",
            "Non_vocab_parameters",
        ),
        ("rectified", ["sft_data_size"], "sft_loss", "sft_data_size"),
        ("parallel", ["num_params", "parallel_size"], "loss", "num_params"),
    ],
)
def test_each_subject_of_the_benchmark_is_scored(form, theirs, loss, size, tmp_path):
    law, runs, _ = MADE[form]
    noise = np.random.default_rng(0).normal(0, 1e-4, len(runs))
    table = pd.DataFrame({name: runs[_NAMES.get(name, name)] for name in theirs})
    table = table.assign(**{loss: law(runs) + noise, "group": "all"})
    most = table[size] >= 0.45 * table[size].max()
    table[~most].to_csv(tmp_path / "made_train.csv", index=False)
    table[most].to_csv(tmp_path / "made_test.csv", index=False)
    (found,) = sld.run(tmp_path)
    assert found["r2"] > 0.9
    assert found["inside"] >= 0.6
    assert found["human_r2"] == sld.PUBLISHED[found["published"][0]].human


def test_a_mixture_s_domains_are_scored_together(tmp_path):
    shares = np.random.default_rng(1).dirichlet(np.ones(5), 60)
    table = pd.DataFrame(shares, columns=[f"proportion_domain_{i}" for i in range(1, 6)])
    for i in range(1, 6):
        table[f"loss_domain_{i}"] = 1 + np.exp(0.2 * i - shares[:, i - 1])
    table[:45].to_csv(tmp_path / "mixture_train.csv", index=False)
    table[45:].to_csv(tmp_path / "mixture_test.csv", index=False)
    (found,) = sld.run(tmp_path)
    assert found["n_hidden"] == 75
    assert found["r2"] > 0.99


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda folder: (folder / "made_fit.csv").rename(folder / "made.csv"), "vocabulary"),
        (lambda folder: (folder / "made_test.csv").write_text("N,D,loss\n1,1,1\n"), "in 2 files"),
    ],
)
def test_folders_that_can_not_be(folder, change, says):
    change(folder)
    if says == "vocabulary":
        assert [row["task"] for row in sld.run(folder)] == ["vocabulary"]
        return
    with pytest.raises(ValueError, match=says):
        sld.run(folder)


def test_a_path_that_is_no_folder(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["benchmark", "sld", str(tmp_path / "x")])
    with pytest.raises(SystemExit, match="is no folder"):
        benchmark.main()
    with pytest.raises(ValueError, match="has no table to fit"):
        sld.run(tmp_path)


@pytest.mark.long
@pytest.mark.parametrize(
    ("hidden", "router", "r2"),
    [
        ("dense_parameter_count", [], 0.847),
        ("dense_parameter_count", ["group"], 0.917),
        ("dense_parameter_count", ["router_type"], 0.924),
        ("num_experts", [], 0.984),
        ("num_experts", ["group"], 0.994),
        ("num_experts", ["router_type"], 0.990),
    ],
)
def test_clark_s_largest_runs_are_said_by_the_others(hidden, router, r2, published, tmp_path):
    """The table of docs/surfaces.md; dense runs are of no router."""
    runs = pd.read_csv(published("clark_final_163.csv"))
    if router == ["group"]:
        runs = runs[runs["router_type"] != "Dense"].rename(columns={"router_type": "group"})
    largest = runs[hidden] == runs[hidden].max()
    rows = runs[["num_experts", "dense_parameter_count", "loss_validation", *router]]
    rows[~largest].to_csv(tmp_path / "moe_fit.csv", index=False)
    rows[largest].to_csv(tmp_path / "moe_hidden.csv", index=False)
    (found,) = sld.run(tmp_path)
    assert found["r2"] == pytest.approx(r2, abs=0.01)
    assert found["inside"] == 1.0
    assert found["n_hidden"] == largest.sum()
