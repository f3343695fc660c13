"""Process that owns a trackio run, and imports trackio."""

import os
import runpy
from pathlib import Path
from typing import Any


class Owner:
    """Owner of the run: it does what a message's one key names."""

    def __init__(self) -> None:
        self.run: Any = None
        self._arguments: dict[str, Any] = {}
        self._from = 0  # tokens of the first row that is not there yet

    def init(self, **arguments: Any) -> None:
        """Of trackio.init, which begin() calls."""
        self._arguments = arguments

    def begin(self, rows: list[dict[str, float]]) -> None:
        """No dashboard is started, and nothing of the machine is sampled."""
        import trackio

        is_local = not any(map(os.environ.get, ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")))
        if is_local:
            self._delete()
        self.run = trackio.init(
            embed=False, auto_log_gpu=False, auto_log_cpu=False, resume="allow", **self._arguments
        )
        self._from = 0 if is_local else self.run._next_step
        for row in rows:
            self.log(**row)

    def log(self, **row: float) -> None:
        """A row of numbers."""
        if row["n_tokens"] >= self._from:
            self.run.log(row, step=int(row["n_tokens"]))

    def _delete(self) -> None:
        """Deletes what the database has of the run. Raises RuntimeError if it can't."""
        import trackio

        project, name = self._arguments["project"], self._arguments["name"]
        try:
            runs = [run for run in trackio.Api().runs(project) if run.name == name]
        except ValueError:
            return  # there is no such project yet
        if not all(run.delete() for run in runs):
            raise RuntimeError(f"what trackio has of {name} in {project} can't be deleted")

    def finish(self, exit_code: int, summary: dict[str, Any]) -> None:
        """Ends the run with the record's losses; when it returns, all is written."""
        if self.run is None:
            return  # it failed before it trained
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
