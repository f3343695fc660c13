"""Tables with the column names of other projects are read as they are, and say what was guessed."""

import re

import pandas as pd
import pytest

from analysis.table.load import check_table
from tests.analysis.hand_made import runs

SIZES, TOKENS, LOSSES = [1e6, 2e6, 4e6], [1e9, 5e8, 2.5e8], [4.0, 4.1, 4.2]


def table(**columns):
    """Three runs of 6e15 FLOPs, 6 N D exact."""
    return check_table(pd.DataFrame(columns))


def numbers(found):
    return [found[name].tolist() for name in ("n_params", "n_tokens", "budget", "loss")]


EXPECTED = [SIZES, TOKENS, [6e15] * 3, LOSSES]


@pytest.mark.parametrize(
    "names",
    [
        ("N", "D", "C", "loss"),
        ("params_total", "tokens_trained", "flops_budget", "loss"),
        ("parameter_count", "throughput/total_tokens", "total_flops", "eval/loss"),
        ("num_parameters", "train_tokens", "compute_budget", "loss_validation"),
        ("parameter_count", "D", "C", "eval/c4_en-validation/CrossEntropyLoss"),
        ("N", "D", "C", "eval/paloma/c4_en/loss"),
        ("Params", "Total Tokens", "FLOPs", "Val Loss"),
        ("n_params", "N-Tokens", "Budget", "smooth loss"),
    ],
)
def test_names_of_other_projects(names):
    size, tokens, budget, loss = names
    found = table(**{size: SIZES, tokens: TOKENS, budget: [6e15] * 3, loss: LOSSES})
    assert numbers(found) == EXPECTED


def test_what_is_guessed_is_a_note():
    found = table(N=SIZES, D=TOKENS, C=[6e15] * 3, loss=LOSSES, peak_lr=1e-3, Na=SIZES)
    assert found["lr"].tolist() == [1e-3] * 3
    assert found["n_active_params"].tolist() == SIZES
    assert found.attrs["notes"][0] == (
        "by their names: budget is C, n_params is N, n_active_params is Na, n_tokens is D, "
        "lr is peak_lr; columns={'OURS': 'THEIRS'} says otherwise"
    )


def test_letters_are_letters_in_their_case_only():
    with pytest.raises(ValueError, match="no column n_params or n_active_params; found n, d, loss"):
        table(n=SIZES, d=TOKENS, loss=LOSSES)


def test_our_own_name_beats_a_guess_and_a_held_out_loss_beats_a_plain_one():
    found = table(n_params=SIZES, N=[7.0] * 3, loss=[9.0] * 3, loss_validation=LOSSES)
    assert found["n_params"].tolist() == SIZES
    assert found["N"].tolist() == [7.0] * 3
    assert found["loss"].tolist() == LOSSES
    assert found["given_loss"].tolist() == [9.0] * 3


def test_a_plain_loss_beats_one_set_of_many_and_a_smoothed_one():
    others = {"eval/c4/loss": [9.0] * 3, "smooth loss": [8.0] * 3}
    assert table(params=SIZES, loss=LOSSES, **others)["loss"].tolist() == LOSSES


def test_of_several_sets_the_user_chooses():
    frame = pd.DataFrame({"N": SIZES, "eval/a/loss": LOSSES, "eval/b/loss": LOSSES})
    message = "loss may be any of eval/a/loss, eval/b/loss; say which, e.g. columns={'loss': 'eval"
    with pytest.raises(ValueError, match=re.escape(message)):
        check_table(frame)
    assert check_table(frame, columns={"loss": "eval/b/loss"})["loss"].tolist() == LOSSES


# Units in names


@pytest.mark.parametrize(
    ("name", "factor"),
    [
        ("throughput/total_gflops", 1e9),
        ("throughput/total_training_Gflops", 1e9),
        ("total_gflops", 1e9),
        ("train_pflops", 1e15),
        ("budget_tflops", 1e12),
        ("budget (PFLOPs)", 1e15),
        ("C [exaFLOPs]", 1e18),
        ("compute_in_petaflops", 1e15),
        ("compute (PF-days)", 8.64e19),
        ("total_flops", 1.0),
    ],
)
def test_flops_by_the_name(name, factor):
    found = table(params=SIZES, tokens=TOKENS, loss=LOSSES, **{name: [6e15 / factor] * 3})
    assert found["budget"].tolist() == pytest.approx([6e15] * 3)
    is_unit = factor != 1.0
    assert any(f"budget is {name}, in " in note for note in found.attrs["notes"]) == is_unit


@pytest.mark.parametrize(
    ("name", "factor"), [("params (M)", 1e6), ("params_b", 1e9), ("n_params_in_millions", 1e6)]
)
def test_counts_by_the_name(name, factor):
    found = table(loss=LOSSES, **{name: [size / factor for size in SIZES]})
    assert found["n_params"].tolist() == pytest.approx(SIZES)


@pytest.mark.parametrize(
    "name", ["gflops", "tokens_per_second", "flops_per_second", "params_gflop"]
)
def test_a_speed_or_a_unit_of_something_else_is_no_column(name):
    found = table(params=SIZES, loss=LOSSES, **{name: [1.0, 2.0, 3.0]})
    assert found["budget"].isna().all()
    assert found["n_tokens"].isna().all()


def test_all_that_is_missing_is_named_at_once():
    message = (
        "no column loss, budget, n_params or n_active_params; found size, cost; say which they "
        "are: columns={'loss': 'MY_NAME', 'budget': 'MY_NAME', 'n_params': 'MY_NAME'}"
    )
    frame = pd.DataFrame({"size": SIZES, "cost": [6e15] * 3})
    with pytest.raises(ValueError, match=re.escape(message)):
        check_table(frame, needs=["budget", "n_params"])


def test_what_can_be_derived_is_not_missing():
    needs = ["budget", "n_params"]
    assert len(check_table(runs(budget=None, flops_per_token=[6e6, 12e6, 24e6]), needs=needs)) == 3
    assert len(check_table(runs(budget=None), flops="6nd", needs=needs)) == 3
    message = "say which it is: columns={'budget': 'MY_NAME'}, or budget by flops='6nd'"
    with pytest.raises(ValueError, match=re.escape(message)):
        check_table(runs(budget=None), needs=needs)


def test_a_message_lists_the_first_of_many_columns():
    frame = pd.DataFrame({f"key{i}": [1.0] for i in range(300)})
    with pytest.raises(ValueError, match=r"found key0, .*, key39, and 260 more; say which"):
        check_table(frame)


def test_of_several_guesses_none_is_taken_where_none_is_needed():
    found = table(params=SIZES, loss=LOSSES, total_tokens=TOKENS, tokens_seen=TOKENS)
    assert found["n_tokens"].isna().all()
    assert (
        "n_tokens may be any of total_tokens, tokens_seen, and none is taken; say which, e.g. "
        "columns={'n_tokens': 'total_tokens'}"
    ) in found.attrs["notes"]
    frame = pd.DataFrame({"params": SIZES, "a": LOSSES, "eval/a/bpb": 1.0, "eval/b/bpb": 1.0})
    with pytest.raises(ValueError, match="bits_per_byte may be any of eval/a/bpb, eval/b/bpb; say"):
        check_table(frame)
    two = {"loss": LOSSES, "valid_loss": [9.0] * 3, "test_loss": [8.0] * 3}
    assert table(params=SIZES, **two)["loss"].tolist() == LOSSES


def test_a_status_in_another_case_is_not_ours():
    assert table(Params=SIZES, Loss=LOSSES, Status="ok")["status"].tolist() == ["done"] * 3
