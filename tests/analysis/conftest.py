"""A sweep's folder of records, as the harness writes them, without training anything."""

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from analysis.figures.plot import Plot
from analysis.report.page.blocks import Drawing
from experiments.records.files import write_record
from tests.analysis.hand_made import of_few_draws, write_run
from tests.conftest import REPOSITORY
from tests.records.test_record import record


@pytest.fixture
def sweep(tmp_path):
    """Three models at two budgets and five sizes; moe is not causal; one run has failed."""
    for model, gain, tables in (("dense", 0.0, 0), ("moe", 0.05, 200_000), ("peer", 0.1, 500_000)):
        for budget, x_opt in ((2e11, 2.5e5), (6e11, 4e5)):
            for size in range(1, 6):
                active = 60_000 * size**1.5
                loss = 5.0 - gain + 0.08 * math.log((active + tables) / (x_opt + tables)) ** 2
                more = {"causal_eval": model != "moe", "perplexity": math.exp(loss)}
                more |= {"n_experts": None if model == "dense" else 64, "tables": tables}
                write_run(tmp_path, model, budget, size, active, loss, **more)
    write_record(tmp_path / "broken", record(run_id="broken", status="failed", val_loss=None))
    return tmp_path


@pytest.fixture(scope="module")
def few_draws() -> Iterator[None]:
    with of_few_draws():
        yield


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of a report are empty, but for their captions, and those of other commands are no
    pictures: drawing is most of their seconds.
    """

    def empty(folder: Path, models: Any, unit: str, plot: Plot) -> Drawing:
        svg = b'<svg xmlns="http://www.w3.org/2000/svg"/>'
        return Drawing(name=plot.name, caption=plot.caption, svg=svg)

    def no_picture(figure: Figure, path: Path, **how: Any) -> None:
        path.write_bytes(b"")

    monkeypatch.setattr("analysis.report.gallery._draw", empty)
    monkeypatch.setattr(Figure, "savefig", no_picture)
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
