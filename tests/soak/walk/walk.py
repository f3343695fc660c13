"""Own app that the soak disturbs: a walk of numbers, and a diary of all that its processes do."""

import json
import os
import time
from pathlib import Path

from experiments.sweep.own_app import OwnApp, Size
from experiments.sweep.own_run import Run

SIZE = 2**61


def next_place(place: int, step: int) -> int:
    """Where a walk is after that step."""
    return (place * 6364136223846793005 + step) % SIZE


class Walk(OwnApp):
    """Some steps of `pause` seconds, more for a higher seed. forgets: the seed that never asks for
    what was saved. diary: a folder with a file a seed, in which each line is a process, its clock,
    what it does, and the step.
    """

    save_seconds = 0.07

    def size(self, config):
        return Size(n_steps=n_steps(config))

    def identity(self, config):
        own = super().identity(config)
        return {key: value for key, value in own.items() if key not in ("diary", "pause")}

    def run(self, run: Run):
        config, place, first = run.config, int(run.config["seed"]), 0
        diary = os.open(
            Path(config["diary"]) / str(config["seed"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND
        )

        def note(what: str, step: int) -> None:
            os.write(diary, f"{os.getpid()} {time.monotonic()} {what} {step}\n".encode())

        def save(step: int, place: int) -> bytes:
            note("saving", step)
            return json.dumps({"step": step, "place": place}).encode()

        if has_ended(run.folder):
            note("again", 0)
        if config["seed"] != config["forgets"] and (saved := run.saved()) is not None:
            content = json.loads(saved.content)
            first, place = saved.step, content["place"]
            note("holds", content["step"])
        note("started", first)
        for step in range(first + 1, n_steps(config) + 1):
            time.sleep(config["pause"])
            place = next_place(place, step)
            note("takes", step)
            try:
                run.step(step, lambda: save(step, place), loss=place / SIZE)  # noqa: B023
            except KeyboardInterrupt:
                note("stopped", step)
                raise
            note("took", step)
        note("ended", n_steps(config))
        return {"loss": place / SIZE, "place": str(place), "n": n_steps(config)}


def n_steps(config) -> int:
    """How many a walk takes."""
    return int(config["n_steps"] + 5 * config["seed"])


def has_ended(folder: Path) -> bool:
    """Whether the run's record says that it is done, read by nothing of the product."""
    try:
        return json.loads((folder / "record.json").read_text())["status"] == "done"
    except (OSError, ValueError, KeyError):
        return False


if __name__ == "__main__":
    Walk.main()
