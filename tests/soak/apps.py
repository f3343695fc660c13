"""Soak of own apps by the launchers local, workers and dask: `make soak ONLY=apps`.

A trial is named apps-N, apps-LAUNCHER-N, apps-FAULT-N or apps-LAUNCHER-FAULT-N. Its processes are
real ones: a command is killed, told to end or given twice, and given again until nothing is left.
"""

import importlib.util
import os
import random
from contextlib import nullcontext
from pathlib import Path

from tests.soak.app_faults import FAULTS
from tests.soak.app_judge import fingerprint
from tests.soak.app_mistakes.sitecustomize import MISTAKES
from tests.soak.app_sweeps import LAUNCHERS, SEEDS, Nodes, Sweep
from tests.soak.app_trial import PATIENCE, AppTrial
from tests.soak.trials import Outcome

NAME = "apps"
_MISTAKES = Path(__file__).parent / "app_mistakes"


class Apps:
    """Trials of a session. One undisturbed sweep says what comes of them all. mistake: of
    app_mistakes, put into the product after that.
    """

    def __init__(self, folder: Path, mistake: str = "") -> None:
        sweep = Sweep(folder, "local")
        (command,) = sweep.start()
        code = command.process.wait(PATIENCE)
        self.expected = fingerprint(sweep)
        if code or len(self.expected) != len(SEEDS):
            raise RuntimeError(f"an undisturbed sweep ends with {code}: {command.text()}")
        if mistake:
            path = filter(None, (str(_MISTAKES), os.environ.get("PYTHONPATH")))
            os.environ |= {"SOAK_MISTAKE": mistake, "PYTHONPATH": os.pathsep.join(path)}
        self.launchers = LAUNCHERS if importlib.util.find_spec("distributed") else LAUNCHERS[:-1]

    def trial(self, name: str, seed: int, folder: Path) -> Outcome:
        """Some faults, drawn from the seed and the name alone."""
        rng = random.Random(f"{seed} {name}")
        words = name.split("-")
        asked = ["dask"] if "kill_node" in words else [one for one in LAUNCHERS if one in words]
        launcher = rng.choice([one for one in asked if one in self.launchers] or self.launchers)
        names = [one for one in FAULTS if launcher == "dask" or one != "kill_node"]
        only = [one for one in names if one in words]
        names = only or rng.choices(names, k=rng.choice((1, 1, 2)))
        # each has a cluster of its own: one that a fault has broken is no other trial's
        with Nodes() if launcher == "dask" else nullcontext() as nodes:
            trial = AppTrial(name, Sweep(folder, launcher, nodes), self.expected, rng)
            trial.outcome.what = f"walks by {launcher} | {', '.join(names)}"
            return trial.run([FAULTS[one] for one in names])


def parts() -> list[str]:
    """What a trial's name may begin with."""
    both = [f"{one}-{fault}" for one in LAUNCHERS for fault in FAULTS]
    return [NAME, *(f"{NAME}-{one}" for one in (*LAUNCHERS, *FAULTS, *both))]


def mistakes() -> list[str]:
    """Names of those that can be put into the product."""
    return list(MISTAKES)
