"""A sweep's folder of records, as the harness writes them, without training anything."""

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.figures.plot import Plot
from analysis.fitting.clusters import drawn_counts
from analysis.report.page.blocks import Drawing
from experiments.records.files import write_record
from tests.conftest import REPOSITORY
from tests.records.test_record import record


@pytest.fixture
def sweep(tmp_path):
    """Three models at two budgets and five sizes; moe is not causal; one run has failed."""
    for model, gain, tables in (("dense", 0.0, 0), ("moe", 0.05, 200_000), ("peer", 0.1, 500_000)):
        for budget, x_opt in ((2e11, 2.5e5), (6e11, 4e5)):
            for size in range(1, 6):
                n_params = 60_000 * size**1.5 + tables
                loss = 5.0 - gain + 0.08 * math.log(n_params / (x_opt + tables)) ** 2
                run_id = f"{model}{budget:.0f}{size}"
                write_record(
                    tmp_path / run_id,
                    record(
                        run_id=run_id,
                        model=model,
                        budget=budget,
                        n_layers=size,
                        d_model=16 * size,
                        n_params=round(n_params),
                        n_active_params=round(n_params - tables),
                        n_tokens=round(budget / (6 * (n_params - tables))),
                        val_loss=loss,
                        perplexity=math.exp(loss),
                        causal_eval=model != "moe",
                        n_experts=None if model == "dense" else 64,
                    ),
                )
    write_record(tmp_path / "broken", record(run_id="broken", status="failed", val_loss=None))
    return tmp_path


@pytest.fixture(scope="module")
def few_draws() -> Iterator[None]:
    """No bootstrap of a law has more than 20 draws: they are most of the time of a report, and the
    intervals are tested where laws are.
    """

    def few(n: int, n_draws: int, *more: Any) -> np.ndarray:
        return drawn_counts(n, min(n_draws, 20), *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("analysis.laws.fit.drawn_counts", few)
        yield


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of a report are empty, but for their captions: drawing is most of its seconds."""

    def empty(folder: Path, models: Any, unit: str, plot: Plot) -> Drawing:
        svg = b'<svg xmlns="http://www.w3.org/2000/svg"/>'
        return Drawing(name=plot.name, caption=plot.caption, svg=svg)

    monkeypatch.setattr("analysis.report.gallery._draw", empty)
    monkeypatch.setattr("analysis.processes._cores", lambda: 1)  # another would not know it


@pytest.fixture
def published() -> Callable[[str], Path]:
    """published("x.csv") is its path: in $PUBLISHED_RUNS, else ../shared/data of the repository."""
    folder = Path(os.environ.get("PUBLISHED_RUNS", REPOSITORY.parent / "shared" / "data"))

    def path(name: str) -> Path:
        if not (folder / name).exists():
            pytest.skip(f"{name} is not in {folder}; PUBLISHED_RUNS names another folder")
        return folder / name

    return path
