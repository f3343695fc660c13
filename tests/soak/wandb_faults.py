"""W&B's process, which a run starts beside itself: killed or stopped, the run goes on."""

import os
import signal
from contextlib import suppress
from pathlib import Path

from tests.soak.faults import fault
from tests.soak.processes import alive
from tests.soak.stage import PATIENCE
from tests.soak.trials import Trial, last_line


@fault("W&B kill -9", "wandb", "wandb", weight=8)
def kill_wandb(trial: Trial) -> None:
    """Process that owns the W&B run, or one that it started."""
    process, moment = trial.stage.start(), trial.some_time()
    process.lives_for(moment)
    pids = _below(process.pid) if process.poll() is None else []
    killed = [pid for pid in trial.rng.sample(pids, min(1, len(pids))) if alive(pid)]
    for pid in killed:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    code = process.wait(PATIENCE)
    if killed:
        trial.injected("W&B kill -9", f"after {moment:.3f} s -> {code}")
        if code:
            trial.wrong(f"W&B was killed: exit code {code}, {last_line(process.output)}")


def _below(pid: int) -> list[int]:
    """Processes that it has started, and those that these have."""
    found = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *_below(child)]
    return found
