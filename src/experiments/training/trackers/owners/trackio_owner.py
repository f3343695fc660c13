"""Process that owns a trackio run, and imports trackio."""

import runpy
from pathlib import Path
from typing import Any


class Owner:
    """Owner of the run: it does what a message's one key names."""

    def __init__(self) -> None:
        self.run: Any = None

    def init(self, **arguments: Any) -> None:
        """No dashboard is started, and nothing of the machine is sampled."""
        import trackio

        self.run = trackio.init(embed=False, auto_log_gpu=False, auto_log_cpu=False, **arguments)

    def log(self, **row: float) -> None:
        """A row of numbers."""
        self.run.log(row, step=int(row["n_tokens"]))

    def finish(self, exit_code: int, summary: dict[str, Any]) -> None:
        """Ends the run with the record's losses; when it returns, all is written."""
        losses = {
            name: value
            for name, value in summary.items()
            if name.endswith("loss") and isinstance(value, int | float)
        }
        if losses:
            self.run.log(losses, step=int(summary.get("n_tokens") or 0))
        self.run.finish()
        self.run = None


if __name__ == "__main__":
    serve = runpy.run_path(str(Path(__file__).with_name("serving.py")))["serve"]
    serve(Owner())
