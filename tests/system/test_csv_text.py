"""What a spreadsheet would run is plain text in our CSVs, and comes back as it was."""

import csv
import io

import pandas as pd
import pytest

from experiments.system.csv_text import guarded, to_csv, unguarded

FORMULAS = [
    "=1+1",
    "+1",
    "-1",
    "-",
    "@SUM(A1)",
    "\tx",
    "\rx",
    "\nx",
    "=cmd|' /C calc'!A0",
    "'=1",
    "''+",
]
PLAIN = ["", "peer", "3e12", "a=b", "1-2", "'quoted'", "''", "é@x", " =1"]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_gets_an_apostrophe(text):
    assert guarded(text) == "'" + text
    assert unguarded(guarded(text)) == text


@pytest.mark.parametrize("text", PLAIN)
def test_other_text_stays_as_it_is(text):
    assert guarded(text) == text
    assert unguarded(text) == text


def test_cells_and_names_are_guarded_and_numbers_are_not():
    frame = pd.DataFrame(
        {
            "model": ["=1+1", "peer"],
            "loss": [-0.5, 2.0],
            "seed": pd.array([-1, None], dtype="Int64"),
            "mixed": [-3, "-x"],
            "@note": pd.array(["+1", None], dtype="string"),
            "causal": pd.array([True, None], dtype="boolean"),
        }
    )
    rows = list(csv.reader(io.StringIO(to_csv(frame))))
    assert rows == [
        ["model", "loss", "seed", "mixed", "'@note", "causal"],
        ["'=1+1", "-0.5", "-1", "-3", "'+1", "True"],
        ["peer", "2.0", "", "'-x", "", ""],
    ]


@pytest.mark.parametrize("text", [*FORMULAS, *PLAIN, "\r", "a\rb", "\r\n", 'a"\r"'])
def test_pandas_reads_each_text_and_number_as_it_was(text):
    frame = pd.DataFrame({"token": [text, "b"], "n": [1, 2], "x": [0.1 + 0.2, float("nan")]})
    again = pd.read_csv(io.StringIO(to_csv(frame)), dtype=str, keep_default_na=False)
    assert list(map(unguarded, again["token"])) == [text, "b"]
    assert again["n"].tolist() == ["1", "2"]
    assert again["x"].tolist() == ["0.30000000000000004", ""]
