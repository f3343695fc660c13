"""Tables of other projects: their names, units, losses, separators and decimals."""

import gzip
import math
import re

import pandas as pd
import pytest

from analysis.table import csv_file
from analysis.table.csv_file import parse_separator, read_csv
from analysis.table.load import check_table, load_table
from analysis.table.units import PER_BYTE, PER_TOKEN, in_unit, loss_unit, parse_unit
from experiments.system.csv_text import to_csv
from tests.analysis.hand_made import runs

N, D, L, SIX = [1e6, 2e6, 4e6], [1e9, 5e8, 2.5e8], [4.0, 4.1, 4.2], [6e15] * 3  # 6 N D exact
NINE, LN2 = [9.0] * 3, math.log(2)
OURS = {"n_params": N, "n_tokens": D, "budget": SIX, "loss": L}
UNKNOWN = {"budget": [None] * 3, "n_tokens": [None] * 3}


def named(text, *columns):
    """A frame of columns with these names, commas between; by default of N, D, C and the loss."""
    return pd.DataFrame(dict(zip(text.split(","), columns or OURS.values(), strict=True)))


BUDGETS = {
    "throughput/total_gflops": 1e9,
    "throughput/total_training_Gflops": 1e9,
    "total_gflops": 1e9,
    "train_pflops": 1e15,
    "budget_tflops": 1e12,
    "budget (PFLOPs)": 1e15,
    "C [exaFLOPs]": 1e18,
    "compute_in_petaflops": 1e15,
    "compute (PF-days)": 8.64e19,
    "total_flops": 1.0,
}
COUNTS = {"params (M)": 1e6, "params_b": 1e9, "n_params_in_millions": 1e6}
SPEEDS = ("gflops", "tokens_per_second", "flops_per_second", "params_gflop")


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (named("N,D,C,loss"), OURS),
        (named("params_total,tokens_trained,flops_budget,loss"), OURS),
        (named("parameter_count,throughput/total_tokens,total_flops,eval/loss"), OURS),
        (named("num_parameters,train_tokens,compute_budget,loss_validation"), OURS),
        (named("parameter_count,D,C,eval/c4_en-validation/CrossEntropyLoss"), OURS),
        (named("N,D,C,eval/paloma/c4_en/loss"), OURS),
        (named("Params,Total Tokens,FLOPs,Val Loss"), OURS),
        (named("n_params,N-Tokens,Budget,smooth loss"), OURS),
        (named("params,tokens,flops,val_loss"), OURS),
        (named("params,tokens,compute,val_loss"), OURS),
        # which of several: ours, held-out, plain, one of many sets, smoothed; else none
        (
            named("n_params,N,loss,loss_validation", N, [7.0] * 3, NINE, L),
            {"n_params": N, "N": [7.0] * 3, "loss": L, "given_loss": NINE},
        ),
        (named("params,loss,eval/c4/loss,smooth loss", N, L, NINE, NINE), {"loss": L}),
        (named("params,loss,valid_loss,test_loss", N, L, NINE, NINE), {"loss": L}),
        (named("params,loss,total_tokens,tokens_seen", N, L, D, D), {"n_tokens": [None] * 3}),
        (runs(val_ppl=[50.0, 60.0, 70.0], val_bpb=[0.9, 1.0, 1.1]), {"loss": L}),
        (named("Params,Loss,Status", N, L, ["ok"] * 3), {"status": ["done"] * 3}),  # not ours
        # a speed, or a unit of something else, is no column
        *((named(f"params,loss,{name}", N, L, [1.0, 2.0, 3.0]), UNKNOWN) for name in SPEEDS),
        # units in names
        *(
            (named(f"params,loss,{name}", N, L, [6e15 / factor] * 3), {"budget": SIX})
            for name, factor in BUDGETS.items()
        ),
        *(
            (named(f"loss,{name}", L, [size / factor for size in N]), {"n_params": N})
            for name, factor in COUNTS.items()
        ),
    ],
)
def test_a_foreign_table_is_read(frame, expected):
    found = check_table(frame)
    for name, values in expected.items():
        shown = found[name].astype(object).where(found[name].notna(), None).tolist()
        is_text = isinstance(values[0], str | None)
        assert shown == (values if is_text else pytest.approx(values)), name
    for name in frame.columns.intersection(list(BUDGETS)):
        is_unit = BUDGETS[name] != 1.0
        assert any(f"budget is {name}, in " in note for note in found.attrs["notes"]) == is_unit


@pytest.mark.parametrize(
    ("frame", "how", "note"),
    [
        (
            named("N,D,C,loss,peak_lr,Na", N, D, SIX, L, [1e-3] * 3, N),
            {},
            "by their names: budget is C, n_params is N, n_active_params is Na, n_tokens is D, "
            "lr is peak_lr; columns={'OURS': 'THEIRS'} says otherwise",
        ),
        (
            named("params,loss,total_tokens,tokens_seen", N, L, D, D),
            {},
            "n_tokens may be any of total_tokens, tokens_seen, and none is taken; say which, e.g. "
            "columns={'n_tokens': 'total_tokens'}",
        ),
        (
            runs(budget=None).assign(**{"budget (PFLOPs)": 6e6}),
            {"units": {"budget": "GFLOP"}},  # beats that of the name
            "budget is budget (PFLOPs), in GFLOP: times 1e+09",
        ),
    ],
)
def test_what_is_taken_for_granted_is_a_note(frame, how, note):
    found = check_table(frame, **how)
    assert note in found.attrs["notes"]
    assert found["budget"].isna().all() or found["budget"].tolist() == SIX
    assert "Na" not in frame or found[["lr", "n_active_params"]].to_numpy().T.tolist() == [
        [1e-3] * 3,
        N,
    ]


def test_a_column_of_words_is_named_where_none_is_the_models():
    frame = named("N,D,C,loss,arch", N * 2, D * 2, SIX * 2, L * 2, list("aaabbb"))
    words = "no column model: all rows are one curve; if arch says the model, columns="
    assert f"{words}{{'model': 'arch'}}" in check_table(frame).attrs["notes"]
    own = check_table(frame.drop(columns="arch")).attrs["notes"]
    named_one = check_table(frame, columns={"model": "arch"}).attrs["notes"]
    assert not [note for note in (*own, *named_one) if "one curve" in note]


def test_what_is_named_or_can_be_derived_is_not_missing():
    sets = named("N,eval/a/loss,eval/b/loss", N, L, NINE)
    assert check_table(sets, columns={"loss": "eval/b/loss"})["loss"].tolist() == NINE
    needs = ["budget", "n_params"]
    assert len(check_table(runs(budget=None, flops_per_token=[6e6, 12e6, 24e6]), needs=needs)) == 3
    assert len(check_table(runs(budget=None), flops="6nd", needs=needs)) == 3


# Units


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
        ("loss", "bits", 2.0, 2 * LN2),
        ("loss", "perplexity", 100.0, math.log(100)),
        ("loss", "bpb", 1.0, LN2),
        ("loss", "nats", 3.0, 3.0),
    ],
)
def test_a_unit_is_a_factor_by_name_or_number(column, text, value, ours):
    assert parse_unit(column, text).convert(value) == pytest.approx(ours, rel=1e-15)


PPL, BPB = [50.0, 60.0, 70.0], [0.9, 1.0, 1.1]
LOG_PPL, NATS = [math.log(v) for v in PPL], [v * LN2 for v in BPB]
LAMBADA = "lambada.perplexity"


@pytest.mark.parametrize(
    ("frame", "how", "losses", "unit", "note"),
    [
        (
            runs(loss=None, val_ppl=PPL), {}, LOG_PPL, PER_TOKEN,
            "loss is val_ppl, in perplexity: its logarithm",
        ),
        (runs(loss=None, val_bpb=BPB), {}, NATS, PER_BYTE, "losses are nats per byte"),
        (runs(loss=None, val_bpb=BPB, val_ppl=PPL), {}, LOG_PPL, PER_TOKEN, ""),
        (runs(**{LAMBADA: PPL}), {"columns": {"loss": LAMBADA}}, LOG_PPL, PER_TOKEN, ""),
        (runs(val_bpb=BPB), {"columns": {"loss": "val_bpb"}}, NATS, PER_BYTE, ""),
        (runs(), {"units": {"loss": "bit"}}, [v * LN2 for v in L], PER_TOKEN, ""),
    ],
)  # fmt: skip
def test_a_loss_is_of_its_unit(frame, how, losses, unit, note, tmp_path):
    found = check_table(frame, **how)
    assert found["loss"].tolist() == pytest.approx(losses)
    assert loss_unit(found) == unit
    assert any(text.startswith(note) for text in found.attrs["notes"])
    if not how and "val_ppl" in frame:
        assert found["perplexity"].tolist() == PPL
    if not how and "val_bpb" in frame:
        assert found["bits_per_byte"].tolist() == BPB
    if unit == PER_BYTE and not how:  # written and checked again
        pd.testing.assert_frame_equal(check_table(found), found)
        (tmp_path / "table.csv").write_text(to_csv(found), encoding="utf-8")
        again = load_table(tmp_path / "table.csv")
        assert again["loss"].tolist() == pytest.approx(losses)
        assert loss_unit(again) == PER_BYTE


def test_texts_say_the_unit():
    said = "0.1 nats/token, perplexity per token"
    assert in_unit(said, PER_TOKEN) == said
    assert in_unit(said, PER_BYTE) == "0.1 nats/byte, perplexity per byte"


# Files


@pytest.fixture
def write(tmp_path):
    def written(text, name="runs.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return written


PACKED = gzip.compress(b"params\tloss\n1e6\t4.5\n", mtime=0)
MARKS = {";": "semicolon", "\t": "tab", "|": "pipe"}


@pytest.mark.parametrize(
    ("text", "name", "how", "expected", "note"),
    [
        *(
            (
                f"model{mark}params{mark}loss\ndense, old{mark}1e6{mark}4.5\n", "runs.csv", {},
                {"loss": [4.5], "model": ["dense, old"]},
                f"its separator is a {name}, by its first lines",
            )
            for mark, name in MARKS.items()
        ),
        (
            "model,params,loss\na;b,1e6,4.5\nc;d,2e6,4.4\n", "runs.csv", {},
            {"loss": [4.5, 4.4], "model": ["a;b", "c;d"]}, None,
        ),
        ("params~loss\n1e6~4.5\n", "runs.csv", {"separator": "~"}, {"loss": [4.5]}, None),
        ("params\tloss\n1e6\t4.5\n", "runs.tsv", {}, {"loss": [4.5]}, None),
        (PACKED, "runs.tsv.gz", {}, {"loss": [4.5]}, None),
        (
            "params;loss;lr\n1000000;4,5;1e-3\n2000000;4,375;2,5e-3\n", "runs.csv", {},
            {"loss": [4.5, 4.375], "lr": [1e-3, 2.5e-3]},
            "the decimals of loss have commas, e.g. 4,5",
        ),
        (
            "params,loss,lr\n1e6,4.5,1e-3,\n2e6,4.4\n4e6,4.3,,\n", "runs.csv", {},
            {"loss": [4.5, 4.4, 4.3], "lr": [1e-3, math.nan, math.nan]},
            "fewer fields than columns, the others are empty: line 3",
        ),
    ],
)  # fmt: skip
def test_a_csv_is_read_as_its_lines_show(write, text, name, how, expected, note):
    found = load_table(write(text, name), **how)
    for column, values in expected.items():
        is_text = isinstance(values[0], str)
        shown = values if is_text else pytest.approx(values, nan_ok=True)
        assert found[column].tolist() == shown
    notes = found.attrs["notes"]
    assert note is None or note in notes
    guessed = name == "runs.csv" and not how and text.split("\n")[0].count(",") == 0
    assert any("separator is" in text for text in notes) == guessed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("params,loss\n1e6,4.5\n2e6,4.4,7\n", "line 3 has 3 fields, its head 2: put texts with a"),
        ('params,loss\n1e6,"a\nb"\n2e6,4.4,7\n', "line 4 has 3 fields"),
        # pandas would take the first of each line as a row's name, and shift the others
        ("params,loss\nrow,1e6,4.5\nrow,2e6,4.4\n", "line 2 has 3 fields, its head 2"),
        ("loss,params, loss\n4,1e6,5\n", "columns occur twice: loss; rename or drop one"),
        ("\nparams,loss\n1e6,4.5\n", "line 1 is empty; it must name the columns"),
        ("params;loss\n1e6,4.5\n", "line 2 has 2 fields, its head 1"),
        ("params,loss\n1e6,\xe9\n".encode("latin-1"), "line 2 has the byte 0xe9; save it as UTF-8"),
        (b"params,loss\n\xff\xfe,1\n", " is not a CSV in UTF-8"),
        ("params,loss\n1e6,4\n".encode("utf-16"), "it begins as UTF-16 does; save it as UTF-8"),
        ('params,loss\n"1e6,4.5\n', "is not a CSV in UTF-8: Error tokenizing data"),
        ("\n\n", "is empty"),
    ],
)
def test_what_does_not_fit_is_one_line(write, text, message):
    path = write(text)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read_csv(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_damaged_packed_csv_a_bomb_and_a_wrong_separator_are_named(write, monkeypatch):
    for damaged in (PACKED[:-9], b"params,loss\n", PACKED[:20] + b"x" + PACKED[21:]):
        with pytest.raises(ValueError, match=r"runs\.csv\.gz is damaged, or no gzip file"):
            load_table(write(damaged, "runs.csv.gz"))
    monkeypatch.setattr(csv_file, "_MOST_BYTES", 1 << 20)
    with pytest.raises(ValueError, match="unpacks to more than 1 MiB; unpack it"):
        load_table(write(gzip.compress(b"params,loss\n" + b"1,4.5\n" * (1 << 18)), "runs.csv.gz"))
    with pytest.raises(ValueError, match="its suffix is not"):
        load_table(write(PACKED, "runs.parquet.gz"))
    assert [parse_separator(text) for text in ("tab", "\\t", ";")] == ["\t", "\t", ";"]
    for wrong in ("", "ab", "5", "."):
        with pytest.raises(ValueError, match="is none: comma, semicolon, tab, pipe, or one mark"):
            parse_separator(wrong)
