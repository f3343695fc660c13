"""What the fault harness trains: tiny points of seven models, and what each gives undisturbed."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra import compose

from experiments.cli import resolve
from experiments.config.hydra_version import composing
from experiments.config.paths import conf_dir
from experiments.data.cache import locked
from experiments.data.prepare import prepare_data
from experiments.point import make_point
from experiments.records import write_text_atomically
from tests.conftest import REPOSITORY, TINY

MODELS = ("noisy", "dense", "none", "moe", "moe_fine", "pkm", "peer")
N_SEEDS = 4
SWEEP = "soak"
_COMMON = (
    "size=1",
    f"sweep={SWEEP}",
    *TINY,
    "ladder.batch_size=1",
    "ladder.lr=3e-3",
    "logger.log_every_n_steps=1",
    "trainer.n_threads=1",
)
_OVERRIDES = {  # small tables: many checkpoints a second
    "noisy": ("model=dense", "model._target_=tests.soak.noisy.NoisyConfig"),
    "pkm": ("model=pkm", "n_experts=64", "model.d_key=8"),
    "peer": ("model=peer", "n_experts=64", "model.d_key=8", "model.top_k=4"),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One point to train: raw is its config but for the paths. n_ranks: processes it needs."""

    name: str
    raw: Mapping[str, Any]
    run_id: str
    n_ranks: int = 1

    def placed(self, results: Path, cache: Path) -> dict[str, Any]:
        """The config of a run that stores its results there."""
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
        self._composed: dict[tuple[str, ...], dict[str, Any]] = {}

    def case(
        self, model: str, seed: int, n_steps: int = 75, minutes: float = 0.0005, n_ranks: int = 1
    ) -> Case:
        """A point of so many steps that saves every so many minutes (0: after each step)."""
        sizes = (f"ladder.batch_size={n_ranks}", f"trainer.devices={n_ranks}")
        overrides = (*_OVERRIDES.get(model, (f"model={model}",)), *sizes)
        plan = make_point(self._compose(*overrides, "budget=1e10")).plan
        budget = n_steps * plan.batch_tokens * plan.cost.training_flops
        raw = self._compose(*overrides, f"budget={budget!r}")
        trainer = {**raw["trainer"], "checkpoint_minutes": minutes}
        raw = {**raw, "seed": seed, "trainer": trainer}
        ranks = f" ranks={n_ranks}" if n_ranks > 1 else ""
        return Case(
            name=f"{model} seed={seed} steps={n_steps}{ranks}",
            raw=raw,
            run_id=make_point(raw).run_id,
            n_ranks=n_ranks,
        )

    def prepare(self) -> None:
        """Makes the tokens that all runs read."""
        prepare_data(make_point(self.case("dense", 0).raw).config.data, self.data)

    def reference(self, case: Case, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The fingerprint of the undisturbed run, by make() if there is none yet."""
        path = self.folder / f"{case.run_id}-{case.n_ranks}.json"
        if not path.exists():
            with locked(path):
                if not path.exists():
                    write_text_atomically(path, json.dumps(make()))
        return json.loads(path.read_text(encoding="utf-8"))

    def _compose(self, *overrides: str) -> dict[str, Any]:
        if overrides not in self._composed:
            with composing():
                paths = (f"paths.cache={self.data}", "paths.results=none")
                composed = compose(
                    "config", [*_COMMON, *paths, *overrides], return_hydra_config=True
                )
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
