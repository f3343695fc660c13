"""Process that owns a W&B run, and imports wandb."""

import os
import runpy
import sys
from pathlib import Path
from typing import Any


class Owner:
    """Owner of the W&B run: it does what a message's one key names."""

    def __init__(self) -> None:
        self.run: Any = None

    def init(self, program: list[str], settings: dict[str, Any], **arguments: Any) -> None:
        """program: the command line of the training, which W&B notes down."""
        import wandb

        Path(arguments["dir"]).mkdir(parents=True, exist_ok=True)
        sys.argv = program
        os.environ.setdefault("WANDB_PROGRAM", program[0])
        self.run = wandb.init(settings=wandb.Settings(**settings), **arguments)
        self.run.define_metric("n_tokens")
        self.run.define_metric("*", step_metric="n_tokens")

    def begin(self, rows: list[dict[str, float]]) -> None:
        """Rows of processes before."""
        for row in rows:
            self.log(**row)

    def log(self, step: float, **row: float) -> None:
        """A row of numbers, unless W&B has one of its step: a run that goes on online."""
        if step >= self.run.step:
            self.run.log({"step": step, **row}, step=int(step), commit=True)

    def finish(self, exit_code: int, summary: dict[str, Any]) -> None:
        """Ends the run; when it returns, all is written, or uploaded."""
        import wandb

        self.run.summary.update(summary)
        self.run.finish(exit_code=exit_code)  # only tells W&B's own process to close the file
        self.run = None
        wandb.teardown()  # waits until it has


if __name__ == "__main__":
    serve = runpy.run_path(str(Path(__file__).with_name("serving.py")))["serve"]
    serve(Owner())
