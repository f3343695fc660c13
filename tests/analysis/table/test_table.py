"""One table, whatever the runs come from: its columns, their types and their names."""

import json
import math

import pandas as pd
import pytest

from analysis.table.load import COLUMNS, check_table, load_table
from experiments.records.files import read_record, write_record
from tests.analysis.hand_made import runs
from tests.records.test_record import record

BUDGET = 6 * 500 * 5120  # of a record() of 500 active parameters and 5120 tokens


def test_a_sweep_is_every_run_in_order(sweep):
    table = load_table(sweep)
    assert len(table) == 31
    assert tuple(table.columns) == COLUMNS
    assert list(table["status"]).count("failed") == 1
    done = table[table["status"] == "done"]
    assert done["budget"].is_monotonic_increasing
    first = done[(done["budget"] == 2e11) & (done["model"] == "moe")]
    assert first["n_layers"].tolist() == [1, 2, 3, 4, 5]
    assert table["n_experts"].isna().sum() == 10  # dense has none
    assert list(table.index) == list(range(31))
    assert table.attrs["notes"] == ()
    run = table[table["run_id"] == "peer2000000000003"].iloc[0]
    values = read_record(sweep / "peer2000000000003" / "record.json")
    assert run["loss"] == values.val_loss
    assert run["perplexity"] == values.perplexity
    assert (run["n_params"], run["seed"], run["sweep"]) == (values.n_params, 0, "s")


def test_a_records_layer_is_in_its_config(tmp_path):
    layer = {"_target_": "experiments.models.ffn.peer.PEERConfig", "n_heads": 2, "top_k": 16}
    config = {"model": {**layer, "query_norm": "none"}}
    write_record(tmp_path / "a", record(run_id="a", budget=BUDGET, config=config))
    write_record(tmp_path / "b", record(run_id="b", budget=BUDGET, model="dense"))
    peer, dense = (load_table(tmp_path).set_index("model").loc[name] for name in ("peer", "dense"))
    assert (peer["n_heads"], peer["top_k"], peer["layer.query_norm"]) == (2, 16, "none")
    assert dense[["n_heads", "top_k", "layer.query_norm"]].isna().all()


def test_a_record_may_be_read_by_the_loss_on_another_text(tmp_path):
    scores = {"lambada": {"loss": 3.0, "perplexity": math.exp(3.0)}}
    write_record(
        tmp_path / "a", record(run_id="a", budget=BUDGET, bits_per_byte=1.0, evaluations=scores)
    )
    table = load_table(tmp_path, columns={"loss": "lambada.loss"})
    assert table["loss"].tolist() == [3.0]
    # The perplexity and bits of the record are of its own held-out text
    assert table["perplexity"].tolist() == [pytest.approx(math.exp(3.0))]
    assert table["bits_per_byte"].isna().all()
    assert table["given_bits_per_byte"].tolist() == [1.0]
    assert "given_perplexity: it is of another loss" in table.attrs["notes"][0]


def test_every_column_is_there_in_its_type_and_those_of_no_meaning_here_last():
    table = check_table(runs(colour="blue", loss=[4.2, 4.1, 4.0]))
    assert tuple(table.columns) == (*COLUMNS, "colour")
    assert table["colour"].tolist() == ["blue"] * 3
    whole = ("n_experts", "n_heads", "top_k", "seed", "n_layers", "d_model", "n_steps")
    assert {str(table[name].dtype) for name in whole} == {"Int64"}
    assert {str(table[n].dtype) for n in ("run_id", "sweep")} == {"string"}
    assert str(table["causal_eval"].dtype) == "boolean"
    numbers = ("budget", "n_params", "n_tokens", "loss", "lr", "perplexity", "usage", "mfu")
    assert {str(table[name].dtype) for name in numbers} == {"float64"}
    assert table["usage"].isna().all()


def test_a_checked_table_passes_again_and_the_given_frame_is_left_as_it_was(sweep):
    for table in (load_table(sweep), check_table(runs(n_experts=[1, 2, 4], colour="blue"))):
        again = check_table(table)
        pd.testing.assert_frame_equal(again, table)
        assert again.attrs == table.attrs
    frame = runs(budget=None)
    before = frame.copy()
    check_table(frame, flops="6nd")
    pd.testing.assert_frame_equal(frame, before)


def test_numbers_and_truth_may_be_written_as_text_and_an_index_be_of_any_kind():
    lrs, truth = ["1e-3", None, "nan"], ["True", "false", None]
    table = check_table(runs(seed=["0", " 1 ", "2"], lr=lrs, n_experts="", causal_eval=truth))
    assert table["seed"].tolist() == [0, 1, 2]
    assert table["lr"].tolist()[0] == 1e-3
    assert table["lr"].isna().sum() == 2
    assert table["n_experts"].isna().all()
    assert table["causal_eval"].tolist() == [True, False, pd.NA]
    doubled = pd.concat([runs(1, model="a"), runs(1, model="b")])
    assert check_table(doubled)["model"].tolist() == ["a", "b"]
    assert len(check_table(runs().set_index(pd.Index(["x", "y", "z"])))) == 3


# Which column is which

N, LOSSES = [1e6, 2e6, 4e6], [4.0, 4.1, 4.2]
OTHER, HELD_OUT = [7e6, 8e6, 9e6], [4.5, 4.6, 4.7]


@pytest.mark.parametrize(
    ("given", "names", "columns", "expected"),
    [
        (  # what is said beats the common names
            {"params": OTHER}, {"n_params": "N", "loss": "c4"}, {"n_params": "N", "loss": "c4"},
            {"n_params": N, "loss": LOSSES, "params": OTHER},
        ),
        (  # one column may stand for two
            {"n_non_embedding_params": OTHER}, {}, {"n_params": "n_non_embedding_params"},
            {"n_params": OTHER, "n_non_embedding_params": OTHER, "given_n_params": N},
        ),
        (  # one that was taken by hand is not taken again by its name
            {"total": [8e6] * 3}, {"n_params": "params"},
            {"n_active_params": "params", "n_params": "total"},
            {"n_active_params": N, "n_params": [8e6] * 3},
        ),
        (  # a held-out loss goes before one that may be the training's
            {"val_loss": HELD_OUT}, {}, None, {"loss": HELD_OUT, "given_loss": LOSSES},
        ),
        ({"val_loss": HELD_OUT}, {}, {"loss": "loss"}, {"loss": LOSSES}),
        (  # a perplexity beside the only loss is of it
            {"perplexity": 50.0, "bits_per_byte": 1.0}, {"loss": "nll"}, {"loss": "nll"},
            {"perplexity": [50.0] * 3, "bits_per_byte": [1.0] * 3},
        ),
    ],
)  # fmt: skip
def test_columns_says_which_is_which(given, names, columns, expected):
    table = check_table(runs(**given).rename(columns=names), columns=columns)
    assert {name: table[name].tolist() for name in expected} == expected
    if columns is None:
        kept = "the column named loss is kept as given_loss: loss is val_loss"
        assert kept in table.attrs["notes"]


def test_a_loaded_table_is_plain_json_and_csv(sweep, tmp_path):
    table = load_table(sweep)
    table.to_csv(tmp_path / "table.csv", index=False)
    pd.testing.assert_frame_equal(load_table(tmp_path / "table.csv"), table)
    json.loads(table.to_json(orient="records"))
