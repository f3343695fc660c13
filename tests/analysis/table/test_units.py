"""Units that are given, and losses that are perplexities, bits, or per byte."""

import math
import re

import pandas as pd
import pytest

from analysis.table.load import check_table, load_table
from analysis.table.units import PER_BYTE, PER_TOKEN, in_unit, loss_unit, parse_unit
from experiments.system.csv_text import to_csv
from tests.analysis.hand_made import runs


@pytest.mark.parametrize(
    ("column", "text", "value", "ours"),
    [
        ("budget", "GFLOP", 2.0, 2e9),
        ("budget", "gflops", 2.0, 2e9),
        ("budget", "petaFLOPs", 2.0, 2e15),
        ("budget", "ZFLOP", 2.0, 2e21),
        ("budget", "PF-days", 1.0, 8.64e19),  # 1e15 FLOP/s for 86,400 s
        ("flops_per_token", "MFLOP", 3.0, 3e6),
        ("n_params", "M", 7.0, 7e6),
        ("n_tokens", "billions", 7.0, 7e9),
        ("n_tokens", "B", 7.0, 7e9),
        ("n_tokens", "2048", 3.0, 6144.0),  # sequences
        ("loss", "bits", 2.0, 2 * math.log(2)),
        ("loss", "perplexity", 100.0, math.log(100)),
        ("loss", "bpb", 1.0, math.log(2)),
        ("loss", "nats", 3.0, 3.0),
    ],
)
def test_a_unit_is_a_factor_by_name_or_number(column, text, value, ours):
    assert parse_unit(column, text).convert(value) == pytest.approx(ours, rel=1e-15)


@pytest.mark.parametrize(
    ("column", "text", "message"),
    [
        ("seed", "M", "units: 'seed' is not one of budget, n_params"),
        ("budget", "M", "units: budget='M' is not one of FLOP, kFLOP, MFLOP"),
        ("n_params", "GFLOP", "units: n_params='GFLOP' is not one of k, M, B, T, or a factor"),
        ("loss", "nan", "units: loss='nan' is not one of nat, bit, nat/byte, bit/byte, perplex"),
        ("n_tokens", "-1", "units: n_tokens='-1' is not one of k, M"),
        ("n_tokens", "inf", "units: n_tokens='inf' is not one of k, M"),
    ],
)
def test_a_unit_that_a_column_can_not_have_is_refused(column, text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_unit(column, text)


def test_units_given_beat_those_of_names():
    frame = runs(budget=None).assign(**{"budget (PFLOPs)": [6e6] * 3})
    found = check_table(frame, units={"budget": "GFLOP"})
    assert found["budget"].tolist() == [6e15] * 3
    assert "budget is budget (PFLOPs), in GFLOP: times 1e+09" in found.attrs["notes"]


def test_a_unit_needs_its_column():
    message = "units: there is no budget; columns={'budget': 'MY_NAME'} names it"
    with pytest.raises(ValueError, match=re.escape(message)):
        check_table(runs(budget=None), units={"budget": "GFLOP"})


def test_a_table_in_another_unit_is_refused_with_the_option_that_says_so():
    message = "of the whole table: units={'budget': 'GFLOP'}, or another"
    with pytest.raises(ValueError, match=re.escape(message)):
        check_table(runs(budget=6e6))
    both = runs(n_tokens=runs()["n_tokens"] / 1e9, n_params=runs()["n_params"] / 1e9)
    with pytest.raises(ValueError, match=r"units=\{'n_params': 'B', 'n_tokens': 'B'\}, or another"):
        check_table(both)


# Losses


def test_a_perplexity_alone_is_the_loss_by_its_logarithm():
    found = check_table(runs(loss=None, val_ppl=[50.0, 60.0, 70.0]))
    assert found["loss"].tolist() == pytest.approx([math.log(v) for v in (50, 60, 70)])
    assert found["perplexity"].tolist() == [50.0, 60.0, 70.0]
    assert loss_unit(found) == PER_TOKEN
    assert "loss is val_ppl, in perplexity: its logarithm" in found.attrs["notes"]


def test_bits_per_byte_alone_are_a_loss_per_byte():
    found = check_table(runs(loss=None, val_bpb=[0.9, 1.0, 1.1]))
    assert found["loss"].tolist() == pytest.approx([v * math.log(2) for v in (0.9, 1.0, 1.1)])
    assert found["bits_per_byte"].tolist() == [0.9, 1.0, 1.1]
    assert loss_unit(found) == PER_BYTE
    assert any(note.startswith("losses are nats per byte") for note in found.attrs["notes"])


def test_a_loss_beats_a_perplexity_and_that_beats_bits_per_byte():
    both = runs(val_ppl=[50.0, 60.0, 70.0], val_bpb=[0.9, 1.0, 1.1])
    assert check_table(both)["loss"].tolist() == [4.0, 4.1, 4.2]
    assert check_table(both.drop(columns="loss"))["loss"][0] == pytest.approx(math.log(50))


def test_a_loss_may_be_chosen_by_the_name_of_its_unit():
    frame = runs(**{"lambada.perplexity": [50.0, 60.0, 70.0]})
    found = check_table(frame, columns={"loss": "lambada.perplexity"})
    assert found["loss"][0] == pytest.approx(math.log(50))
    found = check_table(runs(val_bpb=1.0), columns={"loss": "val_bpb"})
    assert loss_unit(found) == PER_BYTE
    bits = check_table(runs(), units={"loss": "bit"})
    assert bits["loss"][0] == pytest.approx(4 * math.log(2))


def test_a_perplexity_below_one_is_none():
    with pytest.raises(ValueError, match=r"row 1: loss=0\.5 is below 1, which no perplexity is"):
        check_table(runs(loss=None, ppl=[50.0, 0.5, 60.0]))


def test_a_table_per_byte_stays_that_when_it_is_written_and_checked_again(tmp_path):
    found = check_table(runs(loss=None, val_bpb=[0.9, 1.0, 1.1]))
    pd.testing.assert_frame_equal(check_table(found), found)
    path = tmp_path / "table.csv"
    path.write_text(to_csv(found), encoding="utf-8")
    again = load_table(path)
    assert loss_unit(again) == PER_BYTE
    assert again["loss"].tolist() == pytest.approx(found["loss"].tolist())


def test_texts_say_the_unit():
    assert in_unit("0.1 nats/token, perplexity per token", PER_TOKEN).count("token") == 2
    assert in_unit("0.1 nats/token, perplexity per token", PER_BYTE) == (
        "0.1 nats/byte, perplexity per byte"
    )
