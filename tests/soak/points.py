"""What the fault harness trains: tiny points of several kinds, and what each gives undisturbed."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra import compose

from experiments.config.composed import resolve
from experiments.config.hydra_version import composing
from experiments.config.paths import conf_dir
from experiments.data.prepare import prepare_data
from experiments.points.planning import make_point
from experiments.system.disk import write_text_atomically
from experiments.system.made_once import locked
from tests.conftest import REPOSITORY, TINY
from tests.training.domains import stream

MODELS = ("noisy", "dense", "none", "moe", "moe_fine", "pkm", "peer")
N_SEEDS = 4
SWEEP = "soak"
COMMON = (
    "size=1",
    f"sweep={SWEEP}",
    *TINY,
    "ladder.batch_size=1",
    "ladder.lr=3e-3",
    "logger.log_every_n_steps=1",
    "trainer.n_threads=1",
)
_OVERRIDES = {  # of those that are not model=<name>; small tables: many checkpoints a second
    "noisy": ("model=dense", "model._target_=tests.soak.noisy.NoisyConfig"),
    "pkm": ("model=pkm", "n_experts=64", "model.d_key=8"),
    "peer": ("model=peer", "n_experts=64", "model.d_key=8", "model.top_k=4"),
    "wandb": (
        "model=dense",
        "logger=wandb",
        "model.activation=relu",
    ),  # a logger makes no other run
    "branch": (
        "model=dense",
        "optim.schedule=wsd",
        "optim.warmup_tokens=160",
        "optim.branch_from=trunk",
    ),
    "stream": ("init.how=keep", "init.train=all", "data=stream"),
    "growth": ("init.how=bias", "init.train=all", "n_experts=256"),
}
CHILDREN = {"stream": "base", "growth": "peer"}  # and the run that each starts from (parents.py)
_OF_WEIGHTS = ("ladder.d_per", "ladder.d_head", "ladder.vocab", "size=")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One point to train: raw is its config but for the paths. n_ranks: processes it needs."""

    name: str
    raw: Mapping[str, Any]
    run_id: str
    n_ranks: int = 1
    first_step: int = 0  # of a branch
    is_made: bool = False  # by the command for another one, as trunks are

    def placed(self, results: Path, cache: Path) -> dict[str, Any]:
        """Config of a run that stores its results there."""
        return {**self.raw, "paths": {"results": str(results), "cache": str(cache)}}

    def run_dir(self, results: Path) -> Path:
        """Where it then is."""
        return results / SWEEP / self.run_id


class Points:
    """Cases by model and seed, composed at their first use, and the fingerprints of their runs.

    folder: a cache; what is in it belongs to this source and this machine.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / source_hash()
        self.data = self.folder / "data"
        self.parents: dict[str, Path] = {}  # of CHILDREN and others, once they are made
        self._composed: dict[tuple[str, ...], dict[str, Any]] = {}

    def case(
        self,
        model: str,
        seed: int,
        n_steps: int = 75,
        *,
        minutes: float = 0.0005,
        n_ranks: int = 1,
        overrides: Sequence[str] = (),
    ) -> Case:
        """A point of so many steps that saves every so many minutes (0: after each step)."""
        n_steps += n_steps % 2 if model == "stream" else 0  # two stages
        sizes = (f"ladder.batch_size={n_ranks}", f"trainer.devices={n_ranks}")
        overrides = (*_OVERRIDES.get(model, (f"model={model}",)), *sizes, *overrides)
        raw = self.raw(*overrides, n_steps=n_steps, parent=CHILDREN.get(model))
        raw = {**raw, "trainer": {**raw["trainer"], "checkpoint_minutes": minutes}}
        ranks = f" ranks={n_ranks}" if n_ranks > 1 else ""
        return self.case_of({**raw, "seed": seed}, f"{model} seed={seed} steps={n_steps}{ranks}")

    def case_of(self, raw: Mapping[str, Any], name: str, is_made: bool = False) -> Case:
        """Case of a config."""
        point = make_point(raw)
        return Case(
            name=name,
            raw=raw,
            run_id=point.run_id,
            n_ranks=point.ranks.world_size,
            first_step=point.first_step,
            is_made=is_made,
        )

    def raw(self, *overrides: str, n_steps: int, parent: str | None = None) -> dict[str, Any]:
        """Config of a point of so many steps; parent: which run it starts from."""
        given: Sequence[str] = COMMON
        if parent is not None:
            given = [o for o in COMMON if not o.startswith(_OF_WEIGHTS)]
            overrides = ("init=run", f"init.path={self.parents[parent]}", *overrides)
        if "data=stream" in overrides:
            given = [o for o in given if not o.startswith(("data.corpus", "~data.corpus"))]
        if "logger=wandb" in overrides:
            given = [o for o in given if o != "logger=csv"]
        raw = self._compose(*given, *overrides, "budget=1e10")
        if "data=stream" in overrides:
            raw = {**raw, "data": {**raw["data"], "corpus": stream(("sea", "farm"))}}
        plan = make_point(raw).plan
        return {**raw, "budget": n_steps * plan.batch_tokens * plan.cost.training_flops}

    def prepare(self) -> None:
        """Makes the tokens that all runs read."""
        prepare_data(make_point(self.case("dense", 0).raw).config.data, self.data)

    def kept(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What make() gives, made at its first use."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            with locked(path):
                if not path.exists():
                    write_text_atomically(path, json.dumps(make()))
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found

    def _compose(self, *overrides: str) -> dict[str, Any]:
        if overrides not in self._composed:
            with composing():
                paths = (f"paths.cache={self.data}", "paths.results=none")
                composed = compose("config", [*paths, *overrides], return_hydra_config=True)
                self._composed[overrides] = resolve(composed)
        return self._composed[overrides]


def source_hash() -> str:
    """Of all that decides what a run computes: this source, its configs, this harness, torch."""
    digest = hashlib.sha256(f"{torch.__version__} {os.uname().machine}".encode())
    for top in (REPOSITORY / "src", conf_dir(), REPOSITORY / "tests"):
        for path in sorted(top.rglob("*")):
            if path.suffix in (".py", ".yaml", ".cpp", ".h") and path.is_file():
                digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]
