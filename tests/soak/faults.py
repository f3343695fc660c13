"""The faults that are drawn at random: by name, what each is injected into, and how often.

A fault is a function of a trial. It starts the trial's command or does something between two of
them, and notes with trial.injected(kind, what) what really happened.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.soak.points import MODELS, N_SEEDS, Points
from tests.soak.stage import STAGES
from tests.soak.trials import Outcome, Trial

Inject = Callable[[Trial], None]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """layer: worker, controller, ddp, storage, bytes, clock or slurm. stages: where it can happen:
    alone, sweep, ranks. weight: how often it is drawn, against 1.
    """

    name: str
    layer: str
    stages: tuple[str, ...]
    weight: float
    inject: Inject


FAULTS: list[Fault] = []
_SHARES = {"alone": 0.7, "sweep": 0.15, "ranks": 0.15}  # of the trials


def fault(name: str, layer: str, *stages: str, weight: float = 1.0) -> Callable[[Inject], Inject]:
    """Enters a function in the registry."""

    def enter(inject: Inject) -> Inject:
        FAULTS.append(Fault(name=name, layer=layer, stages=stages, weight=weight, inject=inject))
        return inject

    return enter


def random_trial(number: int, seed: int, points: Points, folder: Path) -> Outcome:
    """One to three faults in a row on points drawn from the seed and the trial's number alone."""
    rng = random.Random(f"{seed} {number}")
    (stage,) = rng.choices(list(_SHARES), list(_SHARES.values()))
    known = [one for one in FAULTS if stage in one.stages]
    weights = [one.weight for one in known]
    chain = rng.choices(known, weights, k=rng.choice((1, 1, 2, 2, 3)))
    n_ranks = 2 if stage == "ranks" else 1
    models = ("noisy", "peer", "moe_fine") if stage == "ranks" else MODELS
    drawn = {
        (rng.choice(models), rng.randrange(N_SEEDS)) for _ in range(3 if stage == "sweep" else 1)
    }
    cases = [points.case(model, own, n_ranks=n_ranks) for model, own in sorted(drawn)]
    trial = Trial(str(number), STAGES[stage](folder, points, cases), rng)
    trial.outcome.what += " | " + ", ".join(one.name for one in chain)

    def inject(trial: Trial) -> None:
        for one in chain:
            one.inject(trial)

    return trial.run(inject)


def names() -> Iterator[str]:
    """What is in the registry, with layers, for people."""
    for one in FAULTS:
        yield f"{one.layer}: {one.name} ({', '.join(one.stages)})"
