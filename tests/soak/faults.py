"""Faults that are drawn at random: by name, what each is injected into, and how often.

A fault is a function of a trial. It starts the trial's command or does something between two of
them, and notes with trial.injected(kind, what) what really happened.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.soak.command_stages import Export, Library
from tests.soak.points import CHILDREN, MODELS, N_SEEDS, Case, Points
from tests.soak.searches import Branches, SearchStage
from tests.soak.stage import Alone, Ranks, Sweep
from tests.soak.trials import Outcome, Trial

Inject = Callable[[Trial], None]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """layer: worker, power, locks, controller, ddp, storage, bytes, clock or wandb. stages: names
    of LANES where it can happen, or a model. weight: how often it is drawn, against 1.
    """

    name: str
    layer: str
    stages: tuple[str, ...]
    weight: float
    inject: Inject


FAULTS: list[Fault] = []
LANES: dict[str, type[Alone]] = {
    stage.name: stage for stage in (Alone, Sweep, Ranks, Branches, SearchStage, Export, Library)
}
_SHARES = {
    "alone": 0.6,
    "sweep": 0.12,
    "ranks": 0.1,
    "branches": 0.06,
    "search": 0.06,
    "export": 0.03,
    "library": 0.03,
}  # of the trials
_MODELS = dict.fromkeys((*MODELS, *CHILDREN), 1.0) | {"wandb": 0.3}  # W&B takes seconds


def fault(name: str, layer: str, *stages: str, weight: float = 1.0) -> Callable[[Inject], Inject]:
    """Enters a function in the registry."""

    def enter(inject: Inject) -> Inject:
        FAULTS.append(Fault(name=name, layer=layer, stages=stages, weight=weight, inject=inject))
        return inject

    return enter


def random_trial(name: str, seed: int, points: Points, folder: Path) -> Outcome:
    """One to three faults in a row on points drawn from the seed and the trial's name alone.

    name: a number, or LAYER-NUMBER, FAULT-NUMBER, LANE-NUMBER or MODEL-NUMBER for a trial of that
    alone.
    """
    rng = random.Random(f"{seed} {name}")
    layer = part_of(name)
    known = [one for one in FAULTS if layer in (one.layer, one.name, *LANES, *_MODELS, "")]
    shares = {lane: n for lane, n in _SHARES.items() if any(lane in f.stages for f in known)}
    if layer in LANES or layer in _MODELS:
        shares = {layer if layer in LANES else "alone": 1.0}
    (lane,) = rng.choices(list(shares), list(shares.values()))
    cases = _cases(points, lane, layer if layer in _MODELS else None, rng)
    places = {lane, *(case.name.split()[0] for case in cases)}
    known = [one for one in known if places.intersection(one.stages)]
    chain = rng.choices(known, [one.weight for one in known], k=rng.choice((1, 1, 2, 2, 3)))
    trial = Trial(name, LANES[lane](folder, points, cases), rng)
    trial.outcome.what += " | " + ", ".join(one.name for one in chain)

    def inject(trial: Trial) -> None:
        for one in chain:
            if trial.leased:  # others would find the run elsewhere, and are right
                trial.stage.wait_for_claims()
                trial.leased = False
            one.inject(trial)

    return trial.run(inject)


def _cases(points: Points, lane: str, model: str | None, rng: random.Random) -> list[Case]:
    if lane == "branches":
        return Branches.cases_of(points, rng.randrange(N_SEEDS))
    if lane in ("search", "export", "library"):
        return [points.case("dense", 0)]  # a search's trials differ in their rates
    models = ("noisy", "peer", "moe_fine") if lane == "ranks" else list(_MODELS)
    weights = [1.0 if lane == "ranks" else _MODELS[one] for one in models]
    drawn = {
        (model or rng.choices(models, weights)[0], rng.randrange(N_SEEDS))
        for _ in range(3 if lane == "sweep" else 1)
    }
    n_ranks = 2 if lane == "ranks" else 1
    return [points.case(one, own, n_ranks=n_ranks) for one, own in sorted(drawn)]


def parts() -> list[str]:
    """What a trial's name may begin with: layers, faults, lanes, models."""
    named = [name for one in FAULTS for name in (one.layer, one.name)]
    return list(dict.fromkeys([*named, *LANES, *_MODELS]))


def part_of(name: str) -> str:
    """Of a trial's name; '' of a number."""
    return name.rpartition("-")[0]
