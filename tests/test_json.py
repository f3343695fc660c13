"""docs/json.md has each key of what the commands print and write as JSON, and no other."""

import contextlib
import hashlib
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.__main__ import main
from analysis.parser import find_commands
from analysis.questions import Asking, find_questions
from experiments import status
from experiments.benchmarks.core.made_sweep import make_sweep
from experiments.sweep.search_table import CellState
from tests.analysis.curves.made import annealed
from tests.analysis.curves.test_command import frame
from tests.analysis.planning.test_seeds import runs, table
from tests.analysis.surfaces.test_forms_of_columns import written
from tests.analysis.contrast.test_parts import folder  # noqa: F401 — a fixture
from tests.conftest import REPOSITORY
from tests.json_page import PAGE, check, schemas

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


def printed(words: list[str | Callable[[Path], str]], place: Path) -> dict:
    typed = [word if isinstance(word, str) else word(place) for word in words]
    out = [] if typed[:2] == ["plan", STUDY] and "--for" not in typed else ["--out", str(place / "out")]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert main([*typed, *out, "--json"]) == 0
    return json.loads(said.getvalue())
