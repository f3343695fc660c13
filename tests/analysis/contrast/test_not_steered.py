"""No option moves a number of a registration unseen: each is refused by name, moves nothing, or is
named in every line.
"""

from functools import partial

import numpy as np
import pytest

from analysis import hold_to, read_registration
from analysis.commands.compare import COMMAND
from analysis.options import as_option, check_options, declared
from analysis.parser import make_parser
from analysis.settings import settings_named
from analysis.table.sources import read_source
from tests.analysis.contrast.test_contrast import made
from tests.analysis.contrast.test_parts import rates_file

FILE = """
layers: [dense, none, peer]
budgets: [1e12, 1e13]
primaries:
- {name: gain, kind: difference, layer: peer, baseline: none, budgets: [1e13], refuted_if: holds 0}
- {name: trend, kind: slope, layer: peer, baseline: none, budgets: [1e12, 1e13], refuted_if: below 0}
"""  # noqa: E501
# Of each option what would move a number, if it could
GIVEN = {
    "json": [],
    "out": ["elsewhere"],
    "column": ["loss=other"],
    "unit": ["loss=bit"],
    "series": ["swapped"],
    "separator": ["comma"],
    "budgets": ["1e12,1e13"],
    "budget_tolerance": ["0"],
    "where": ["d_model=32,48,64,96"],
    "flops": ["6nd"],
    "x": ["n_params"],
    "baseline": ["dense"],
    "layer": ["peer"],
    "primary": ["peer-dense@1e12"],
    "centres": ["layer+budget"],
    "curvature": ["layer"],
    "classes": ["one: peer; two: dense none"],
    "errors": ["scatter"],
    "margin": ["0.02"],
    "stop": ["0.01"],
    "rates": ["rates.json"],
    "by": ["targets"],
    "level": ["0.5"],
    "mark": ["a: 1 2"],
}
OF_TABLE = {"column", "unit", "separator", "budgets", "budget_tolerance", "flops"}
MARKED = {*OF_TABLE, "series", "rates"}
FREE = {"json", "out", "mark", "layer", "baseline"}
OTHERS = frozenset().union(*COMMAND.known.values()) - COMMAND.known["contrast"]
PARSER = make_parser("")


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("held")
    table = made(np.random.default_rng(4), sd=0.004)
    swapped = table["model"].map({"dense": "none", "none": "dense", "peer": "peer"})
    noise = np.random.default_rng(5).normal(0, 0.01, len(table))
    table.assign(swapped=swapped, other=table["loss"] + noise, lr=0.001).drop(
        columns=["series", "perplexity"]
    ).dropna(axis=1, how="all").to_csv(folder / "runs.csv", index=False)
    (folder / "registered.yaml").write_text(FILE)
    return folder


def held(here, monkeypatch, *words, file="registered.yaml"):
    """What the command prints and saves, without drawing it."""
    monkeypatch.chdir(here)
    options = PARSER.parse_args(["compare", "runs.csv", "--preregistered", file, *words])
    with settings_named(partial(as_option, declared(options))):
        check_options(options)
        options.source = read_source(options.path, options.separator)
        return options.chosen.compute(options, options.chosen.read(options))


def typed(name):
    """Words that give an option its value of GIVEN."""
    if name in OF_TABLE:
        nested = name in ("column", "unit")
        return ["--table", f"{name}{'.' if nested else '='}{GIVEN[name][0]}"]
    return [f"--{name}", *GIVEN[name]]


def numbers(found):
    """Name -> its numbers, of verdicts and of the other lines."""
    every = found.values["every"]
    of_verdicts = {one["primary"]["name"]: one for one in found.values["verdicts"]}
    lines = {one["name"]: one for kind in ("differences", "slopes") for one in every[kind]}
    return {**of_verdicts, **lines}


def test_each_option_of_the_command_is_here():
    known = {*vars(PARSER.parse_args(["compare", "runs.csv"]))} - OTHERS
    free = {"path", "preregistered", "question", "command", "chosen", "version", "table"}
    assert known - free == set(GIVEN) - OF_TABLE


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_an_option_of_another_question_is_refused_by_name(here, monkeypatch, name):
    flag = f"--{name.replace('_', '-')}"
    value = {"holm": (), "method": ["akima"], "slopes": ["one"]}.get(name, ["5"])
    with pytest.raises(ValueError, match=f"no question takes .*{flag}"):
        held(here, monkeypatch, flag, *value)
    with pytest.raises(ValueError, match=f"^{flag} is for .*, and not for contrast; leave it out"):
        held(here, monkeypatch, flag, *value, "--question", "contrast")


@pytest.fixture(scope="module")
def plain(here):
    with pytest.MonkeyPatch.context() as patched:
        return numbers(held(here, patched))


@pytest.mark.parametrize("name", sorted(GIVEN.keys() - MARKED - FREE))
def test_an_option_that_is_not_registered_is_refused_by_name(here, monkeypatch, name):
    with pytest.raises(ValueError, match=r"is not registered in registered\.yaml") as refused:
        held(here, monkeypatch, *typed(name))
    assert str(refused.value).startswith(f"--{name} ")


@pytest.mark.parametrize("name", sorted(FREE))
def test_an_option_that_chooses_lines_moves_no_number(here, monkeypatch, plain, name):
    found = held(here, monkeypatch, *typed(name))
    own = numbers(found)
    shared = own.keys() & plain.keys()
    assert {"gain", "trend"} <= shared
    assert {key: own[key] for key in shared} == {key: plain[key] for key in shared}
    assert "not as registered" not in found.text


@pytest.mark.parametrize("name", sorted(MARKED))
def test_what_no_file_can_say_is_named_in_every_line(here, monkeypatch, name):
    if name == "rates":
        rates_file(here / "rates.json")
    shown = name.replace("_", "-")
    found = held(here, monkeypatch, *typed(name))
    assert f"\nnot as registered: {shown} {GIVEN[name][0]}" in found.text
    every = found.values["every"]
    n = sum(len(every[kind]) for kind in ("noises", "minima", "differences", "slopes"))
    marked = [line for line in found.text.splitlines() if line.endswith(f" {shown}")]
    assert len(marked) == n  # the two that are primary are not below, among the exploratory
    (csv,) = found.tables.values()
    assert set(csv["not as registered"]) == {shown}


def test_what_the_file_says_moves_a_number_and_nothing_else_does(here, monkeypatch, plain):
    said = {"errors": "scatter", "centres": "layer+budget", "x": "n_params", "level": "0.5",
            "rates": "rates.json", "classes": "{two: [none, dense], one: [peer]}"}  # fmt: skip
    rates_file(here / "rates.json")
    for name, value in said.items():
        (here / "other.yaml").write_text(f"{name}: {value}\n{FILE}")
        own = held(here, monkeypatch, file="other.yaml")
        assert numbers(own)["gain"] != plain["gain"], name
        again = held(here, monkeypatch, *typed(name), file="other.yaml")
        assert again.values == own.values
        assert own.values["moved"] == []
    (here / "other.yaml").write_text(f"level: 0.5\n{FILE}")
    with pytest.raises(ValueError, match=r"--level 0\.9 is not what other\.yaml registered: 0\.5"):
        held(here, monkeypatch, "--level", "0.9", file="other.yaml")


def test_python_is_refused_alike(here):
    registered = read_registration(here / "registered.yaml")
    table = made(np.random.default_rng(4), sd=0.004)
    for option in ({"errors": "seeds"}, {"margin": 0.02}, {"primary": ["peer-none@1e13"]}):
        with pytest.raises(ValueError, match="is not registered in"):
            hold_to(registered, table, **option)
