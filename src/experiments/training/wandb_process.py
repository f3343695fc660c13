"""Process that owns a W&B run, and imports wandb: tracking.py starts it, by this file's path.

It is told (guest.py) to init, to log rows and to finish. At the end of the pipe without a finish,
whoever told it is gone: it closes the run, so that no row is lost, or is ended by an alarm.
"""

import json
import os
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

_CLOSING = 120  # seconds at most


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

    def log(self, **row: float) -> None:
        """A row of numbers."""
        self.run.log(row)

    def finish(self, exit_code: int, summary: dict[str, Any]) -> None:
        """Ends the run; when it returns, all is written, or uploaded."""
        import wandb

        self.run.summary.update(summary)
        self.run.finish(exit_code=exit_code)  # only tells W&B's own process to close the file
        self.run = None
        wandb.teardown()  # waits until it has


def main() -> None:
    """Answers each message; ends at the first that fails."""
    messages, answers = _own_pipes()
    owner = Owner()
    try:
        for line in messages:
            ((name, values),) = json.loads(line).items()
            getattr(owner, name)(**values)
            _answer(answers)
        if owner.run is not None:
            signal.alarm(_CLOSING)
            owner.finish(exit_code=1, summary={})
        _remove_folder()
    except BaseException as error:  # W&B may ask for an exit
        _answer(answers, repr(error))
        messages.read()  # until it is killed, and with it what it has started, or is alone
        _remove_folder()
        os._exit(1)  # without W&B's hooks at exit, which may wait, or complain of what is known


def _remove_folder() -> None:
    """Removes temporary files, where whoever started this process may be gone (guest.py)."""
    shutil.rmtree(os.environ.get("EXPERIMENTS_GUEST_FOLDER", ""), ignore_errors=True)


def _answer(answers: Any, error: str = "") -> None:
    with suppress(BrokenPipeError):  # whoever asked is gone: the rows are for W&B all the same
        answers.write(f"{error}\n".encode())


def _own_pipes() -> tuple[Any, Any]:
    """Messages and answers; what W&B starts, and prints, is kept from them."""
    messages, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return messages, answers


if __name__ == "__main__":
    main()
