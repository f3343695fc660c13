"""docs/json.md has each key of what the commands print and write as JSON, and no other."""

import contextlib
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.__main__ import main
from analysis.parser import find_command, list_commands
from analysis.questions import Asking, find_questions
from experiments import status
from experiments.benchmarks.core.made_sweep import make_sweep
from tests.analysis.curves.made import annealed
from tests.analysis.curves.test_command import frame
from tests.analysis.hand_made import of_few_draws
from tests.analysis.planning.test_seeds import runs, table
from tests.analysis.surfaces.test_forms_of_columns import written
from tests.conftest import REPOSITORY
from tests.json_page import check, schemas

RESULTS = REPOSITORY / "results"
STUDY, SECOND = (str(RESULTS / "study" / name) for name in ("isoflop", "edition_2"))


def curves(place: Path) -> str:
    rng = np.random.default_rng(0)
    kinds = [annealed(kind, 1000, noise=0.01, rng=rng) for kind in ("cosine", "wsd", "constant")]
    frame(*kinds).to_csv(place / "curves.csv", index=False)
    return str(place / "curves.csv")


def experts(place: Path) -> str:
    rows = [
        {"model": "peer", "n_experts": E, "n_active_params": N, "n_params": N * 2, "loss": loss}
        for N in (1e6, 3e6, 1e7)
        for E in (64, 256, 1024, 4096, 16384)
        for loss in [1.5 + 30 * N**-0.2 * E**-0.07]
    ]
    pd.DataFrame(rows).to_csv(place / "experts.csv", index=False)
    return str(place / "experts.csv")


def seeds(place: Path) -> str:
    losses = {"dense": [4.0, 4.02, 4.03, 4.01], "moe": [3.9, 3.94, 3.91, 3.9], "pkm": [4.1]}
    parts = [runs(losses, budget, n) for budget in (1e12, 1e13) for n in (2, 3)]
    table(*parts).to_csv(place / "seeds.csv", index=False)
    return str(place / "seeds.csv")


def streams(place: Path) -> str:
    return str(written(place / "streams.csv", "parallel"))


# schema -> the command that prints it: words, in which a function makes a table
COMMANDS: dict[str, list[str | Callable[[Path], str]]] = {
    "isoflop/1": ["isoflop", STUDY],
    "parametric/1": ["parametric", STUDY, "--model", "peer", "--draws", "20", "--influence"],
    "surfaces/1": ["surfaces", STUDY, "--model", "peer", "--draws", "10"],
    "surfaces-of/1": ["surfaces", streams, "--of", "streams", "--draws", "10"],
    "experts/1": ["experts", experts],
    "curves/1": [
        "curves", curves, "--law", "annealing", "--draws", "20", "--hold-out", "each",
        "--predict", "cosine:3000",
    ],
    "flatness/1": ["flatness", STUDY],
    "rates/1": ["rates", str(RESULTS / "study" / "rates"), "--used", STUDY],
    "report/1": ["report", STUDY],
    "differences/1": ["compare", seeds],
    "differences-holm/1": ["compare", seeds, "--holm"],
    "differences-by/1": ["compare", seeds, "--by", "n_layers"],
    "multiplier/1": ["compare", STUDY, "--question", "multiplier"],
    "contrast/1": ["compare", SECOND, "--question", "contrast"],
    "contrast-by/1": ["compare", SECOND, "--question", "contrast", "--by", "targets"],
    "contrast-registered/1": [
        "compare", SECOND, "--preregistered", f"{SECOND}/preregistration.yaml",
    ],
    "adaptation/1": ["compare", str(RESULTS / "retrofit" / "hpo")],
    "adapters/1": ["compare", str(RESULTS / "adapters" / "study")],
    "forgetting/1": ["compare", str(RESULTS / "lifelong" / "streams")],
    "growth/1": ["compare", str(RESULTS / "growth" / "square")],
    "plan_size/1": ["plan", STUDY, "--budget", "1e15"],
    "plan_runs/1": ["plan", STUDY, "--for", "N*@1e14", "--budget", "2e14", "--model", "peer"],
    "plan_seeds/1": ["plan", seeds, "--half-width", "0.015"],
}  # fmt: skip


def printed(words: list[str | Callable[[Path], str]], place: Path) -> dict[str, Any]:
    typed = [word if isinstance(word, str) else word(place) for word in words]
    prints_alone = typed[0] == "plan" and "--for" not in typed and "--half-width" not in typed
    out = [] if prints_alone else ["--out", str(place / "out")]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert main([*typed, *out, "--json"]) == 0
    found: dict[str, Any] = json.loads(said.getvalue())
    return found


NIGHT = pytest.param("report/1", marks=pytest.mark.night)  # 40 s: all fits of the study


@pytest.mark.parametrize("name", [NIGHT if name == NIGHT.values[0] else name for name in COMMANDS])
def test_a_command_of_the_analysis_prints_the_keys_of_the_page(name, tmp_path):
    with of_few_draws():
        values = printed(COMMANDS[name], tmp_path)
    assert values["schema"] == name
    rows = {row.path for row in schemas()[name].rows()}
    assert check(values) == rows, "a row of the page that no output has"


def test_each_command_of_the_analysis_is_on_the_page():
    known = {name.partition("/")[0] for name in schemas() if "/" in name}
    for name in list_commands():
        command = find_command(name)
        asked = find_questions(command.questions) if isinstance(command, Asking) else [""]
        prefix = command.prefix if isinstance(command, Asking) else name
        for question in asked:
            assert prefix + question in known


def test_status_prints_the_keys_of_the_page(tmp_path, command):
    make_sweep(tmp_path / "made", 100)
    for words in (["made"], []):
        code, out, _ = command(status, *words, "--results", tmp_path, "--json")
        assert code == 0
        lines = [json.loads(line) for line in out.splitlines()]
        name = "status/1" if words else "status-sweep/1"
        assert {line["schema"] for line in lines} == {name}
        seen = set().union(*(check(line) for line in lines))
        assert seen == {row.path for row in schemas()[name].rows()}


def test_keys_that_were_released_are_those_of_their_version():
    """tests/json_keys.txt: the hash of each schema's rows, which changes with its version alone."""
    made = {
        name: hashlib.sha256(
            "\n".join(f"{row.path} {row.kinds} {row.always}" for row in node.rows()).encode()
        ).hexdigest()[:12]
        for name, node in schemas().items()
    }
    lines = (Path(__file__).parent / "json_keys.txt").read_text(encoding="utf-8").splitlines()
    kept = dict(line.split() for line in lines)
    changed = [name for name in made if name in kept and made[name] != kept[name]]
    assert not changed, f"keys of {changed} changed: raise the version, on the page and in the code"
    new = "\n".join(f"{name} {digest}" for name, digest in sorted(made.items()))
    assert made.keys() == kept.keys(), f"tests/json_keys.txt is to be:\n{new}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(more=1), "more is not in docs/json.md"),
        (lambda v: v.pop("state"), "state is in docs/json.md alone"),
        (lambda v: v.update(state=3), "state=3 is not string"),
        (lambda v: v.update(step=True), "step=True is not number"),
        (lambda v: v.update(schema="status/9"), "no status/9"),
    ],
)
def test_a_key_that_comes_goes_or_changes_is_noticed(tmp_path, command, change, message):
    make_sweep(tmp_path / "made", 1)
    line = command(status, "made", "--results", tmp_path, "--json")[1].splitlines()[0]
    values = json.loads(line)
    change(values)
    with pytest.raises(AssertionError, match=message):
        check(values)
