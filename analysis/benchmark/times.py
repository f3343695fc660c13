"""How long the fits take: `python -m analysis.benchmark`, on a machine with nothing else to do.

The published runs of Chinchilla's figure and Clark's routers, if PUBLISHED_RUNS names their folder
(default ../shared/data), else synthetic runs of the same number. Beside it, on the same runs in
turn, `chinchilla` from PyPI if it is installed: pip install -e '.[bench]'.
"""

import argparse
import importlib.util
import json
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd

from analysis.experts.fit import fit_expert_law
from analysis.fitting.intervals import Array
from analysis.fitting.least_squares import huber
from analysis.parametric import fit_parametric
from analysis.synthetic import ChinchillaSurface, ClarkSurface, simulate_experts, simulate_isoflop
from analysis.table.load import load_table
from experiments.system.schemas import with_schema

_DELTA = 1e-3


def main(typed: list[str]) -> None:
    """Prints a table of medians over the rounds with their range, or JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.benchmark",
        description=(__doc__ or "").partition("\n")[0],
        epilog="sld FOLDER instead: how well laws say rows that they were not fitted to",
    )
    parser.add_argument("--rounds", type=int, default=5, help="of each, in turn (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON instead")
    options = parser.parse_args(typed)
    where, (N, D, L), routers = _runs()
    tasks: dict[str, Callable[[], Any]] = {
        "parametric fit": lambda: fit_parametric(N, D, L, n_draws=0),
        "parametric fit, 1000 bootstraps": lambda: fit_parametric(N, D, L, n_draws=1000),
    }
    for name, table, baseline in routers:
        fit = partial(fit_expert_law, table, "clark", model=name, baseline=baseline, n_draws=0)
        tasks[f"clark fit, {name}"] = fit
    theirs = importlib.util.find_spec("chinchilla") is not None
    if theirs:
        tasks["chinchilla (PyPI) fit"] = lambda: _their_fit(N, D, L)
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    results: dict[str, Any] = {}
    for _ in range(options.rounds):
        for name, run in tasks.items():
            start = time.perf_counter()
            results[name] = run()
            seconds[name].append(time.perf_counter() - start)
    objectives = {"parametric fit": results["parametric fit"].objective}
    if theirs:
        objectives["chinchilla (PyPI) fit"] = _objective(results["chinchilla (PyPI) fit"], N, D, L)
    _show(options.json, where, len(L), seconds, objectives)


def _runs() -> tuple[str, tuple[Array, Array, Array], list[tuple[str, pd.DataFrame, str | None]]]:
    folder = Path(os.environ.get("PUBLISHED_RUNS", "../shared/data"))
    figure, routers = folder / "chinchilla_epoch_245.csv", folder / "clark_final_163.csv"
    if not (figure.exists() and routers.exists()):
        runs = simulate_isoflop(
            ChinchillaSurface(), np.geomspace(6e18, 3e21, 16).tolist(), 15, noise=0.015
        )
        N, D, L = (runs[name].to_numpy() for name in ("n_params", "n_tokens", "loss"))
        sizes, experts = np.geomspace(15e6, 1.3e9, 6).tolist(), [2**k for k in range(1, 10)]
        table = simulate_experts(ClarkSurface(), sizes, experts, noise=0.01)
        return "synthetic runs", (N, D, L), [("moe", table, None)]
    frame = pd.read_csv(figure).sort_values("loss").iloc[:-5]  # as Besiroglu 2024: outliers
    N, D, L = (frame[name].to_numpy() for name in ("params", "tokens", "loss"))
    mapping = {
        "model": "router_type",
        "n_experts": "num_experts",
        "n_active_params": "dense_parameter_count",
        "n_params": "total_parameter_count",
        "loss": "loss_validation",
    }
    table = load_table(routers, columns=mapping)
    names = ("S-Base", "RL-R", "Hash")
    return "published runs", (N, D, L), [(name, table, "Dense") for name in names]


def _their_fit(N: Array, D: Array, L: Array) -> Array:
    """E, A, B, alpha, beta by the package, with its README's grid and Hoffmann's objective."""
    from chinchilla import Chinchilla
    from chinchilla._metrics import log_huber

    with tempfile.TemporaryDirectory() as folder:
        one = Chinchilla(
            folder,
            param_grid={
                "E": np.linspace(1, 2, 5),
                "a": np.linspace(1, 10, 5),
                "b": np.linspace(1, 10, 5),
                "alpha": np.linspace(0.1, 0.7, 5),
                "beta": np.linspace(0.1, 0.7, 5),
            },
            loss_fn=partial(log_huber, delta=_DELTA),
            log_level=50,
        )
        one.visualizer.optim = lambda *args, **kwargs: None  # no plot: the fit is what is timed
        one.database.df = pd.DataFrame({"C": 6 * N * D, "N": N, "D": D, "loss": L})
        one.fit()
        return np.array([float(getattr(one, name)) for name in ("E", "A", "B", "alpha", "beta")])


def _objective(params: Array, N: Array, D: Array, L: Array) -> float:
    """Summed Huber loss of log residuals, the same for both."""
    E, A, B, alpha, beta = params
    return float(huber(np.log(E + A * N**-alpha + B * D**-beta) - np.log(L), _DELTA).sum())


def _show(
    as_json: bool,
    where: str,
    n_runs: int,
    seconds: dict[str, list[float]],
    objectives: dict[str, float],
) -> None:
    ours = median(seconds["parametric fit"])
    rows = [
        {
            "what": name,
            "median_s": median(times),
            "min_s": min(times),
            "max_s": max(times),
            "times_ours": median(times) / ours,
            "objective": objectives.get(name),
        }
        for name, times in seconds.items()
    ]
    if as_json:
        values = {"runs": where, "n_runs": n_runs, "rows": rows}
        print(json.dumps(with_schema("analysis-benchmark", values), indent=1))
        return
    print(f"{where}: {n_runs} for the parametric fit; medians of {len(seconds['parametric fit'])}")
    frame = pd.DataFrame(rows).astype({"objective": "float64"})
    print(frame.to_string(index=False, na_rep="", float_format=lambda v: f"{v:.6g}"))
