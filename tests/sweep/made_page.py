"""Sweeps in every state, with curves, for tests of the page."""

import json
import math

from experiments.sweep.manifest import Entry
from experiments.sweep.states import PointState, SweepState

EVIL = "</script><img src=x onerror=alert(1)>\"'&\u2028\x1b[31m"
COLUMNS = "step,n_tokens,flops,loss,lr,tokens_per_second,seconds"


def history(n_rows=50, every=10, scale=1.0, first=0):
    """A history.csv of a loss that falls."""
    rows = [COLUMNS]
    for step in range(first + every, first + every * (n_rows + 1), every):
        loss = scale * (2 + 4 / (1 + step / 50) ** 0.5)
        rows.append(f"{step},{step * 512},{step * 512 * 1e5},{loss},0.01,1000.0,{step / 9}")
    return "\n".join(rows) + "\n"


def entry(run_id, model="peer", budget=1e11, n_experts=None, words="", **how):
    config = {"model_name": model, "budget": budget, "n_experts": n_experts}
    config |= {"model": {"_target_": "x", "n_heads": 1}, **how.pop("config", {})}
    return Entry(
        run_id=run_id, label=f"{model} size=2 budget={budget:g} seed=0{words}", planned_flops=1e9,
        n_steps=500, code=None, config=json.dumps(config), **how,
    )  # fmt: skip


def point(own, state="done", **how):
    running = state == "running"
    values = {
        "run_id": own.run_id, "label": own.label, "state": state, "n_steps": own.n_steps,
        "step": {"done": 500, "waiting": 0}.get(state, 250), "planned_flops": 1e9,
        "tokens_per_second": 1e4 if running else None, "seconds_left": 60.0 if running else None,
        "done_flops": {"done": 1e9, "waiting": 0.0}.get(state, 5e8), "n_stops": 0, "job": None,
        "log": None, "detail": "", "loss": 3.0 if state == "done" else None, "n_params": 10_000,
    }  # fmt: skip
    return PointState(**(values | how))


def sweep(*pairs, notes=()):
    """SweepState of (entry, point) pairs."""
    entries, points = zip(*pairs, strict=True)
    return SweepState(points=points, notes=tuple(notes), entries=entries)


def two_models(folder):
    """Two models at two budgets: three sizes each, of which the last run goes on, fails or waits;
    their histories are in the folder.
    """
    pairs = []
    for model in ("dense", "peer"):
        for budget in (1e11, 2.4e11):
            for size, n_params in enumerate((10_000, 30_000, 90_000)):
                last = "failed" if model == "dense" else "running" if budget < 2e11 else "waiting"
                own = entry(f"{model}{budget:.0e}{size}".replace("+", ""), model, budget)
                state = last if size == 2 else "done"
                how = {"n_params": n_params} if state != "waiting" else {"n_params": None}
                if state == "done":
                    how["loss"] = 3 + 0.2 * abs(math.log(n_params / 30_000)) + (model == "dense")
                if state == "failed":
                    how |= {"detail": f"OSError: {EVIL}", "log": "results/s/log.txt"}
                pairs.append((own, point(own, state, **how)))
                if state != "waiting":
                    (folder / own.run_id).mkdir()
                    scale = 1.1 if model == "dense" else 1.0
                    text = history(50 if state == "done" else 20, scale=scale)
                    (folder / own.run_id / "history.csv").write_text(text)
    return sweep(*pairs, notes=[f"a note {EVIL}"])
