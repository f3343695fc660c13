"""A CSV as spreadsheets of several countries write it; what does not fit is named by its line."""

import gzip
import re

import pytest

from analysis.table import csv_file
from analysis.table.csv_file import parse_separator, read_csv
from analysis.table.load import load_table


@pytest.fixture
def write(tmp_path):
    def written(text, name="runs.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return written


@pytest.mark.parametrize(("mark", "name"), [(";", "semicolon"), ("\t", "tab"), ("|", "pipe")])
def test_the_separator_is_guessed_and_said(write, mark, name):
    path = write(f"model{mark}params{mark}loss\ndense, old{mark}1e6{mark}4.5\n")
    table = load_table(path)
    assert table["model"].tolist() == ["dense, old"]
    assert table["loss"].tolist() == [4.5]
    assert f"its separator is a {name}, by its first lines" in table.attrs["notes"]


def test_a_comma_is_no_guess(write):
    text = "model,params,loss\na;b,1e6,4.5\nc;d,2e6,4.4\n"
    assert not any("separator" in note for note in load_table(write(text)).attrs["notes"])


def test_the_separator_may_be_asked_for(write):
    path = write("params~loss\n1e6~4.5\n")
    assert load_table(path, separator="~")["loss"].tolist() == [4.5]
    assert load_table(write("params\tloss\n1e6\t4.5\n", "runs.tsv"))["loss"].tolist() == [4.5]
    assert (parse_separator("tab"), parse_separator("\\t"), parse_separator(";")) == (
        *("\t", "\t"),
        ";",
    )
    for wrong in ("", "ab", "5", "."):
        with pytest.raises(ValueError, match="is none: comma, semicolon, tab, pipe, or one mark"):
            parse_separator(wrong)


def test_a_packed_csv_is_read_and_a_damaged_one_is_named(write, monkeypatch):
    packed = gzip.compress(b"params\tloss\n1e6\t4.5\n")
    assert load_table(write(packed, "runs.tsv.gz"))["loss"].tolist() == [4.5]
    for damaged in (packed[:-9], b"params,loss\n", packed[:20] + b"x" + packed[21:]):
        with pytest.raises(ValueError, match=r"runs\.csv\.gz is damaged, or no gzip file"):
            load_table(write(damaged, "runs.csv.gz"))
    monkeypatch.setattr(csv_file, "_MOST_BYTES", 1 << 20)
    bomb = gzip.compress(b"params,loss\n" + b"1,4.5\n" * (1 << 18))
    with pytest.raises(ValueError, match="unpacks to more than 1 MiB; unpack it"):
        load_table(write(bomb, "runs.csv.gz"))
    with pytest.raises(ValueError, match="its suffix is not"):
        load_table(write(packed, "runs.parquet.gz"))


def test_decimal_commas_are_read(write):
    table = load_table(write("params;loss;lr\n1000000;4,5;1e-3\n2000000;4,375;2,5e-3\n"))
    assert table["loss"].tolist() == [4.5, 4.375]
    assert table["lr"].tolist() == [1e-3, 2.5e-3]
    assert "the decimals of loss have commas, e.g. 4,5" in table.attrs["notes"]


@pytest.mark.parametrize("value", ["4,125", "1,000", "1,000,000", "4,5x"])
def test_a_comma_that_may_part_thousands_is_refused(write, value):
    message = f"line 2: loss='{value}' has a comma: a point is for decimals, and nothing for thou"
    with pytest.raises(ValueError, match=re.escape(message)):
        load_table(write(f"params;loss\n1000000;{value}\n"))


def test_a_line_with_too_few_fields_is_a_note_and_empty_ends_are_nothing(write):
    table = load_table(write("params,loss,lr\n1e6,4.5,1e-3,\n2e6,4.4\n4e6,4.3,,\n"))
    assert table["loss"].tolist() == [4.5, 4.4, 4.3]
    assert table["lr"].isna().sum() == 2
    assert "fewer fields than columns, the others are empty: line 3" in table.attrs["notes"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "params,loss\n1e6,4.5\n2e6,4.4,7\n",
            "line 3 has 3 fields, its head 2: put texts with a c",
        ),
        ('params,loss\n1e6,"a\nb"\n2e6,4.4,7\n', "line 4 has 3 fields"),
        # pandas would take the first of each line as a row's name, and shift the others
        ("params,loss\nrow,1e6,4.5\nrow,2e6,4.4\n", "line 2 has 3 fields, its head 2"),
        ("loss,params, loss\n4,1e6,5\n", "columns occur twice: loss; rename or drop one"),
        ("\nparams,loss\n1e6,4.5\n", "line 1 is empty; it must name the columns"),
        ("params;loss\n1e6,4.5\n", "line 2 has 2 fields, its head 1"),
        ("params,loss\n1e6,\xe9\n".encode("latin-1"), "line 2 has the byte 0xe9; save it as UTF-8"),
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


def test_one_column_asks_for_the_separator(write):
    message = "it is one column: is its separator another? e.g. separator='tab'"
    with pytest.raises(ValueError, match=re.escape(message)):
        load_table(write("params loss\n1e6 4.5\n"))
