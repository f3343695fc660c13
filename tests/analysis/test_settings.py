"""A message names a setting as its reader gives it: in Python, or as the option that was typed."""

from functools import partial

import pytest

from analysis.options import as_option, read_options
from analysis.settings import setting, settings_named

DECLARED = read_options(
    "--for:target TARGET  of an interval\n--cluster COLUMN  of runs\n--min-gain NATS  of experts\n"
    "--series COLUMN  of curves\n--where COLUMN=VALUE...  of runs"
)


@pytest.mark.parametrize(
    ("name", "value", "python", "typed"),
    [
        ("target", "N*@1e13", "target='N*@1e13'", "--for 'N*@1e13'"),
        ("groups", 3, "groups=3", "--cluster 3"),
        ("min_gain", 1e13, "min_gain=10000000000000.0", "--min-gain 1e13"),
        ("series", [], "series=[]", "--series none"),
        ("series", ["model", "lr"], "series=['model', 'lr']", "--series model,lr"),
        ("slopes", "one", "slopes='one'", "slopes='one'"),  # no option of this command
        ("where", {"a": ["VALUE"]}, "where={'a': ['VALUE']}", "--where a=VALUE"),
        (
            "columns",
            {"loss": "my loss", "lr": "rate"},
            "columns={'loss': 'my loss', 'lr': 'rate'}",
            "--table column.loss='my loss' --table column.lr=rate",
        ),
        ("budgets", [6e18, 1e19], "budgets=[6e+18, 1e+19]", "--table budgets=6e18,1e19"),
    ],
)
def test_a_setting_is_named_as_it_is_given(name, value, python, typed):
    assert setting(name, value) == python
    assert setting(name) == name
    with settings_named(partial(as_option, DECLARED)):
        assert setting(name, value) == typed
    assert setting(name, value) == python
