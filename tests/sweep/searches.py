"""Small searches: by made-up workers, which write records, and as a command in a process."""

import math
import os
import subprocess
import sys
from contextlib import contextmanager

from experiments.records.files import write_record
from experiments.records.record import RunRecord
from experiments.sweep import manifest
from experiments.sweep.objective import Objective
from experiments.sweep.queue import Outcome, Queue
from experiments.sweep.search_table import read_cells
from experiments.sweep.space import read_spaces
from experiments.sweep.study import Rules
from experiments.system.claims import read_events
from tests.conftest import REPOSITORY, TINY

LR = {"ladder.lr": "log(2e-3, 4e-2)"}
SEARCH = "hydra.sweeper.search={ladder.lr: 'log(2e-3, 4e-2)'}"
FIXED = (*TINY, "size=1", "budget=2e8", "sweep=s", "hydra.sweeper.n_trials=4", SEARCH)


def command(folder, *arguments):
    """Command as a process of its own."""
    words = [sys.executable, "-m", "experiments.run", "-m", *FIXED, "model=dense", *arguments]
    path = os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY)])
    variables = {**os.environ, "PYTHONPATH": path, "EXPERIMENTS_CACHE": str(folder / "cache")}
    log = (folder / "log.txt").open("a")
    with log:
        return subprocess.Popen(words, cwd=folder, env=variables, stdout=log, stderr=log)


def events(folder):
    """How often each run was started."""
    runs = (folder / "results/s").glob("*/events.jsonl")
    return {p.parent.name: [e["event"] for e in read_events(p.parent)] for p in runs}


def rules(spaces=LR, n_trials=5, objective="val_loss", direction="minimize", **others):
    return Rules(
        spaces=read_spaces(spaces),
        n_trials=n_trials,
        objective=Objective(name=objective, direction=direction),
        **{"sampler": "tpe", "seed": 0, **others},
    )


def lr(point):
    return point.config.ladder.lr


def parabola(point):
    return 3 + math.log(lr(point) / 8e-3) ** 2


def finish(point, status="done", value=None):
    plan, cost = point.plan, point.plan.cost
    record = RunRecord(
        run_id=point.run_id, sweep="s", status=status, model=point.config.model_name,
        seed=point.config.seed, budget=1e9, n_layers=1, d_model=16, n_experts=None,
        n_params=cost.n_params, n_active_params=cost.n_active_params,
        n_non_embedding_params=cost.n_non_embedding_params, flops_per_token=1.0, flops_shares={},
        planned_flops=plan.planned_flops, n_steps=plan.n_steps, batch_tokens=plan.batch_tokens,
        n_tokens=plan.n_tokens, lr=plan.lr, causal_eval=True, val_loss=value,
        error="Traceback\nOSError: no room" if status == "failed" else None,
    )  # fmt: skip
    write_record(point.run_dir, record)


class Workers(Queue):
    """A queue, and its session: n_workers points one after the other, as `fate` decides."""

    def __init__(self, fate=lambda point: ("done", parabola(point)), stop_after=None):
        state = {"fate": fate, "stop_after": stop_after, "ran": [], "n_workers": 1}
        # n_expected: as the display was told before the first
        vars(self).update(state, n_expected=None, left=[], ended={})

    def __setattr__(self, name, value):  # a queue is frozen
        vars(self)[name] = value

    @contextmanager
    def session(self, what, planned):
        self.n_expected, self.left, self.ended = len(planned), [], {}
        print(f"{what}, {self.n_workers} at a time")
        yield self

    def room(self, n_running):
        return self.n_workers

    def submit(self, points, code, tasks):
        self.left += points

    def outcomes(self, tasks):
        return self.ended

    def wait(self):
        points, self.left = self.left, []
        for point in points:
            if len(self.ran) == self.stop_after:
                raise KeyboardInterrupt
            status, value = self.fate(point)
            finish(point, status, value)
            self.ran.append(point)
            failed = status == "failed"
            self.ended[point.run_id] = Outcome(
                fate="failed" if failed else "done", why="OSError: no room" if failed else ""
            )
        return bool(points)


def enter(points):
    """Without the copy of the code, which takes half a second."""
    if points:
        manifest.add(points[0].run_dir.parent, [manifest.make_entry(p, None) for p in points])
        return points[0].run_dir.parent / ".code"
    return None


def asked(sweep):
    return [(t.state, dict(t.params), t.value) for c in read_cells(sweep) for t in c.trials]
