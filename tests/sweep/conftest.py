"""Points of one small sweep, and its folder; cells of a search, and its command; an own app."""

import sys

import pytest

from examples.ridge.ridge import Ridge
from experiments.points.planning import make_point
from experiments.sweep import app as apps
from experiments.sweep import search_runs
from experiments.sweep.own_app import ENGINE
from experiments.sweep.search import Cell, Search
from tests.conftest import TINY
from tests.sweep.searches import enter

RIDGE = "ridge:Ridge"


@pytest.fixture
def make(compose_raw, tmp_path):
    """make("seed=1", ...): the point with these overrides."""

    def point(*overrides):
        paths = (f"paths.results={tmp_path / 'results'}", f"paths.cache={tmp_path / 'cache'}")
        fixed = ("size=1", "budget=1e9", "sweep=s")
        return make_point(compose_raw(*fixed, *TINY, *paths, *overrides))

    return point


@pytest.fixture
def sweep(tmp_path):
    """Folder of its points."""
    return tmp_path / "results" / "s"


@pytest.fixture
def cell(compose_raw, tmp_path):
    """cell("dense", ...): the cell of a model, its points as Hydra would compose them."""

    def make(model="dense", *overrides, seeds=(0,), first=()):
        def compose(words):
            raws = []
            for seed in seeds:
                raw = compose_raw(
                    f"model={model}", f"seed={seed}", "size=1", "budget=1e9", "sweep=s", *TINY,
                    f"paths.results={tmp_path / 'results'}", f"paths.cache={tmp_path / 'cache'}",
                    *overrides,
                )  # fmt: skip
                for word in words:
                    name, _, value = word.partition("=")
                    group, _, key = name.partition(".")
                    raw[group][key] = type(raw[group][key])(value)
                raw["optim"]["lr"] = raw["ladder"]["lr"]
                raws.append(raw)
            return raws

        return Cell(name=f"model={model}", compose=compose, first=first)

    return make


@pytest.fixture
def go(monkeypatch):
    """go(cells, rules, workers): a command; its exit code."""
    monkeypatch.setattr(search_runs, "prepare_all", lambda points: None)
    monkeypatch.setattr(search_runs, "enter", enter)

    def run(cells, given, workers, n_workers=1):
        workers.n_workers = n_workers
        try:
            search_runs.run_search(Search(cells, given), workers)
        except SystemExit as end:
            return end.code
        except KeyboardInterrupt:
            return 130
        return 0

    return run


@pytest.fixture
def ridge_app(monkeypatch):
    """examples/ridge, as its own command introduces it; what a command loads from a file is
    forgotten after.
    """
    before = sys.path.copy()
    apps.introduce(RIDGE, Ridge())
    yield
    apps._known.pop(RIDGE, None)
    sys.path[:] = before
    sys.modules.pop("ridge", None)


@pytest.fixture
def ridge_raw(tmp_path):
    """ridge_raw(degree=3): the config that Hydra composes."""

    def make(**given):
        own = {"degree": 3, "penalty": 1e-3, "rate": 0.2, "n_steps": 50, "n_points": 40}
        engine = {**ENGINE, "sweep": "s", "paths": {"results": str(tmp_path / "results")}}
        return {**engine, **own, "pause": 0.0, "seed": 0, "model_name": None, **given}

    return make
