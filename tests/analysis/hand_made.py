"""Runs as one would write them in a notebook, and as the harness writes them."""

from contextlib import contextmanager

import pandas as pd
import pytest

from analysis.fitting.clusters import drawn_counts
from experiments.records.files import write_record
from tests.records.test_record import record


def runs(n=3, **columns):
    """A hand-made table: n sizes of one budget, with 6 N D exact; columns=None drops one."""
    sizes = [1e6 * 2**i for i in range(n)]
    frame = pd.DataFrame(
        {
            "budget": 6e15,
            "n_params": sizes,
            "n_tokens": [1e15 / size for size in sizes],
            "loss": [4.0 + 0.1 * i for i in range(n)],
        }
    )
    for name, value in columns.items():
        if value is None:
            frame = frame.drop(columns=name)
        else:
            frame[name] = value
    return frame


def write_run(folder, model, budget, size, active, loss, *, tables=0, run_id=None, **columns):
    """Writes the record of a run of so many blocks, active parameters and others, by 6 N D."""
    run_id = run_id or f"{model}{budget:.0f}{size}"
    values = {
        "run_id": run_id,
        "model": model,
        "budget": budget,
        "n_layers": size,
        "d_model": 16 * size,
        "n_params": round(active + tables),
        "n_active_params": round(active),
        "n_tokens": round(budget / (6 * active)),
        "val_loss": loss,
        "perplexity": None,
    }
    write_record(folder / run_id, record(**values | columns))


@contextmanager
def of_few_draws():
    """No bootstrap of a law has more than 20 draws: they are most of the time of a report, and the
    intervals are tested where laws are.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "analysis.laws.fit.drawn_counts",
            lambda n, n_draws, *more: drawn_counts(n, min(n_draws, 20), *more),
        )
        yield
