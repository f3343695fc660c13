"""One table, whatever the runs come from: its columns, their types and their names."""

import json
import math

import pandas as pd
import pytest

from analysis.table.load import COLUMNS, check_table, keep_rows, load_table
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


def test_a_records_loss_is_its_val_loss(sweep):
    table = load_table(sweep)
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


def test_every_column_is_there_in_its_type():
    table = check_table(runs())
    assert tuple(table.columns) == COLUMNS
    whole = ("n_experts", "n_heads", "top_k", "seed", "n_layers", "d_model", "n_steps")
    assert {str(table[name].dtype) for name in whole} == {"Int64"}
    assert {str(table[n].dtype) for n in ("run_id", "sweep")} == {"string"}
    assert str(table["causal_eval"].dtype) == "boolean"
    numbers = ("budget", "n_params", "n_tokens", "loss", "lr", "perplexity", "usage", "mfu")
    assert {str(table[name].dtype) for name in numbers} == {"float64"}
    assert table["usage"].isna().all()


def test_columns_of_no_meaning_here_are_kept_last():
    table = check_table(runs(colour="blue", loss=[4.2, 4.1, 4.0]))
    assert tuple(table.columns) == (*COLUMNS, "colour")
    assert table["colour"].tolist() == ["blue"] * 3


def test_a_checked_table_passes_again_unchanged(sweep):
    for table in (load_table(sweep), check_table(runs(n_experts=[1, 2, 4], colour="blue"))):
        again = check_table(table)
        pd.testing.assert_frame_equal(again, table)
        assert again.attrs == table.attrs


def test_the_given_frame_is_left_as_it_was():
    frame = runs(budget=None)
    before = frame.copy()
    check_table(frame, flops="6nd")
    pd.testing.assert_frame_equal(frame, before)


def test_numbers_may_be_written_as_text():
    table = check_table(runs(seed=["0", " 1 ", "2"], lr=["1e-3", None, "nan"], n_experts=""))
    assert table["seed"].tolist() == [0, 1, 2]
    assert table["lr"].tolist()[0] == 1e-3
    assert table["lr"].isna().sum() == 2
    assert table["n_experts"].isna().all()


def test_truth_may_be_written_as_text():
    table = check_table(runs(causal_eval=["True", "false", None]))
    assert table["causal_eval"].tolist() == [True, False, pd.NA]


def test_an_index_of_any_kind_will_do():
    doubled = pd.concat([runs(1, model="a"), runs(1, model="b")])
    assert check_table(doubled)["model"].tolist() == ["a", "b"]
    assert len(check_table(runs().set_index(pd.Index(["x", "y", "z"])))) == 3


# Names


def test_common_names_are_known():
    frame = runs().rename(
        columns={"n_params": "params", "n_tokens": "tokens", "budget": "flops", "loss": "val_loss"}
    )
    pd.testing.assert_frame_equal(check_table(frame), check_table(runs()))
    assert check_table(frame.rename(columns={"flops": "compute"}))["budget"].notna().all()


def test_columns_says_which_is_which_and_beats_the_common_names():
    frame = runs(params=[7e6, 8e6, 9e6]).rename(columns={"n_params": "N", "loss": "loss_c4"})
    table = check_table(frame, columns={"n_params": "N", "loss": "loss_c4"})
    assert table["n_params"].tolist() == [1e6, 2e6, 4e6]
    assert table["loss"].tolist() == [4.0, 4.1, 4.2]
    assert table["params"].tolist() == [7e6, 8e6, 9e6]


def test_one_column_may_stand_for_two():
    frame = runs(n_non_embedding_params=[5e5, 6e5, 7e5])
    table = check_table(frame, columns={"n_params": "n_non_embedding_params"})
    assert table["n_params"].tolist() == table["n_non_embedding_params"].tolist()
    assert table["given_n_params"].tolist() == [1e6, 2e6, 4e6]


def test_a_column_taken_by_hand_is_not_taken_again_by_alias():
    frame = runs(total=[8e6, 8e6, 8e6]).rename(columns={"n_params": "params"})
    table = check_table(frame, columns={"n_active_params": "params", "n_params": "total"})
    assert table["n_active_params"].tolist() == [1e6, 2e6, 4e6]
    assert table["n_params"].tolist() == [8e6] * 3


def test_a_held_out_loss_goes_before_one_that_may_be_the_trainings():
    table = check_table(runs(val_loss=[4.5, 4.6, 4.7]))
    assert table["loss"].tolist() == [4.5, 4.6, 4.7]
    assert table["given_loss"].tolist() == [4.0, 4.1, 4.2]
    assert "the column named loss is kept as given_loss: loss is val_loss" in table.attrs["notes"]
    by_hand = check_table(runs(val_loss=[4.5, 4.6, 4.7]), columns={"loss": "loss"})
    assert by_hand["loss"].tolist() == [4.0, 4.1, 4.2]


def test_a_perplexity_beside_the_only_loss_is_of_it():
    frame = runs(perplexity=50.0, bits_per_byte=1.0).rename(columns={"loss": "nll"})
    table = check_table(frame, columns={"loss": "nll"})
    assert table["perplexity"].tolist() == [50.0] * 3
    assert table["bits_per_byte"].tolist() == [1.0] * 3


def test_a_loaded_table_is_plain_json_and_csv(sweep, tmp_path):
    table = load_table(sweep)
    table.to_csv(tmp_path / "table.csv", index=False)
    pd.testing.assert_frame_equal(load_table(tmp_path / "table.csv"), table)
    json.loads(table.to_json(orient="records"))


def peer_runs():
    frame = pd.DataFrame(
        {
            "model": "peer",
            "budget": [1e12, 1e12, 3e12, 3e12],
            "n_params": [1e5, 2e5, 1e5, 2e5],
            "n_active_params": 1e5,
            "n_experts": [64, 256, 64, 256],
            "query_norm": ["batch", "none", "batch", None],
            "loss": [4.0, 3.9, 3.8, 3.7],
        }
    )
    return check_table(frame)


def test_only_the_runs_that_are_wanted_and_named_by_what_still_varies():
    table = peer_runs()
    assert "n_experts=64" in table["series"][0]
    kept = keep_rows(table, {"query_norm": ["batch"], "budget": ["1e12", "3e12"]})
    assert kept["loss"].tolist() == [4.0, 3.8]
    assert set(kept["series"]) == {"peer"}
    assert keep_rows(table, {"n_experts": ["256"], "query_norm": [""]})["loss"].tolist() == [3.7]
    given = table.assign(series="mine")
    assert set(keep_rows(given, {"budget": ["1e12"]})["series"]) == {"mine"}


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"norm": ["batch"]}, "'norm' is no column; found series, model"),
        ({"query_norm": ["layer"]}, "no run has layer.query_norm=layer; they have , batch, none"),
        ({"budget": ["much"]}, "budget='much' is not a number"),
        ({"budget": ["2e12"]}, "no run has budget=2e12; they have 1000000000000.0, 3000"),
    ],
)
def test_rows_that_can_not_be_kept_are_reported(where, message):
    with pytest.raises(ValueError, match=message):
        keep_rows(peer_runs(), where)
