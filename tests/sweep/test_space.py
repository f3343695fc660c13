"""Ranges of a search: as text, as Optuna's, and back as overrides of Hydra."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from experiments.sweep.space import DIGITS, read_spaces


def space(value):
    (found,) = read_spaces({"ladder.lr": value}).values()
    return found


@pytest.mark.parametrize(
    ("text", "kind", "ends"),
    [
        ("log(2e-3, 4e-2)", "log", (0.002, 0.04)),
        (" log(.5,8) ", "log", (0.5, 8.0)),
        ("uniform(-1, 0)", "uniform", (-1.0, 0.0)),
        ("int(1, 4)", "int", (1, 4)),
        ("log_int(64, 4096)", "log_int", (64, 4096)),
        ([2, 4, 8], "choice", (2, 4, 8)),
        (["cosine", "wsd"], "choice", ("cosine", "wsd")),
        ([None, 1.0, True], "choice", (None, 1.0, True)),
    ],
)
def test_is_read_as_it_is_written(text, kind, ends):
    found = space(text)
    assert (found.kind, found.ends) == (kind, ends)
    assert [type(end) for end in found.ends] == [type(end) for end in ends]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("log(4e-2, 2e-3)", "is empty: 0.04 is not below 0.002; give the lower first"),
        ("uniform(1, 1)", "is empty: 1 is not below 1"),
        ("log(0, 1)", "has no logarithm at 0; give ends above 0"),
        ("log(1, inf)", "has an end that is not finite"),
        ("uniform(nan, 1)", "has an end that is not finite"),
        ("int(1, 2.5)", "needs two whole numbers"),
        ("log(a, b)", "needs two numbers"),
        ("log(1)", "is no range; write log"),
        ("normal(0, 1)", "is no range; write log"),
        (3, "is no range"),
        (None, "is no range"),
        ([1], "must have two values or more"),
        ([1, 1], "must have two values or more, each once"),
        ([[1], [2]], r"\[1\] is not a single value"),
        (["a b", "c"], "'a b' is not a plain word or number"),
        ([1.0, float("inf")], "inf is not finite"),
    ],
)
def test_bad_ranges_are_one_line(text, message):
    with pytest.raises(ValueError, match=message) as error:
        space(text)
    assert str(error.value).startswith("hydra.sweeper.search: ladder.lr=")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("rate", 3, r"rate=3 of the grid is to be tried first, and is not in log\(1, 2\)"),
        ("rate", True, "rate=True of"),
        ("rate", None, "rate=None of"),
        ("rate", float("nan"), "rate=nan of"),
        ("n", 1.5, "n=1.5 of"),
        ("kind", "c", r"kind=c of the grid is to be tried first, and is not in \['a', None\]"),
    ],
)
def test_a_value_of_the_grid_is_one_that_could_be_drawn(name, value, message):
    spaces = read_spaces({"rate": "log(1, 2)", "n": "int(1, 4)", "kind": ["a", None]})
    with pytest.raises(ValueError, match=message):
        spaces[name].checked(value)
    for fits in {"rate": (1, 1.5), "n": (4,), "kind": ("a", None)}[name]:
        assert spaces[name].checked(fits) == fits
    assert type(spaces["rate"].checked(1)) is float


@pytest.mark.parametrize("search", [{}, "log(1, 2)", [1]])
def test_a_search_is_a_group(search):
    with pytest.raises(ValueError, match="must be a group of keys"):
        read_spaces(search)


@pytest.mark.parametrize(
    "text", ["log(1e-7, 1e5)", "uniform(-3e-6, 2e6)", "log(.0123456, .0123457)"]
)
def test_a_drawn_number_is_short_in_its_range_and_read_back_as_itself(text):
    found = space(text)
    low, high = found.ends
    parser = OverridesParser.create()
    for i in range(200):
        share = i / 199
        drawn = low * (high / low) ** share if found.kind == "log" else low + share * (high - low)
        value = found.rounded(drawn)
        assert low <= value <= high
        assert value == pytest.approx(drawn, rel=0.6 * 10 ** (1 - DIGITS), abs=1e-300)
        if value not in (low, high):
            assert len(f"{abs(value):e}".partition("e")[0].replace(".", "").rstrip("0")) <= DIGITS
        override = parser.parse_override(found.override(value))
        assert (override.value(), type(override.value())) == (value, float)


def test_other_values_are_read_back_as_themselves():
    parser = OverridesParser.create()
    for value in (None, True, False, 3, 2.0, "wsd", 1e-05):
        found = space([value, "other"])
        read = parser.parse_override(found.override(found.rounded(value))).value()
        assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rate", "{_target_: payload.X}"), ("rate", 3.0), ("rate", float("nan")), ("rate", True),
        ("n", 1.5), ("n", "1,2"), ("kind", "b"), ("kind", "${oc.env:HOME}"), ("kind", ["a"]),
    ],
)  # fmt: skip
def test_a_value_of_a_planted_journal_is_no_override(name, value):
    spaces = read_spaces({"rate": "log(1, 2)", "n": "int(1, 4)", "kind": ["a", None]})
    with pytest.raises(ValueError, match=f"{name}=.* of the search's journal is not in"):
        spaces[name].override(value)
