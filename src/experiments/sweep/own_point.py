"""A run of one's own app before it runs: its config, the engine's keys in it, its size."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from experiments.config.constraints import Positive, SweepName, Within, checked
from experiments.config.late import begun
from experiments.sweep import point as swept
from experiments.sweep.app import Raw
from experiments.sweep.point import Handling, Needs

# Keys of a config that are the engine's, and no part of a run's identity
ENGINE: Mapping[str, Any] = {
    "sweep": "default",  # results/<sweep>/<run_id>
    "retry": "failed",  # failed | all: diverged ones too | none
    "dry_run": False,  # true: print the plan, write nothing
    "max_retries": 2,  # tries of a killed run without a new checkpoint
    "log_every_seconds": 15.0,  # between lines of progress
    "paths": {"results": "results"},
}
_RULES: Mapping[str, Any] = {
    "sweep": SweepName,
    "retry": Literal["failed", "all", "none"],
    "dry_run": bool,
    "max_retries": Annotated[int, Within(0, 1000)],
    "log_every_seconds": Positive,
    "paths": Mapping[str, str],
}


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much a run is. work: in the app's unit; None: its steps. n_bytes: of memory, if known."""

    n_steps: int = 1
    work: float | None = None
    n_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class OwnPoint(swept.Point):
    """place: of its app, as module:class."""

    place: str
    size: Size
    label: str

    @property
    def app(self) -> str:
        return self.place

    @property
    def handling(self) -> Handling:
        own = {name: self.raw[name] for name in ENGINE if name != "paths"}
        return Handling(results=self.raw["paths"]["results"], **own)

    @property
    def needs(self) -> Needs:
        return Needs(n_bytes=self.size.n_bytes)

    @property
    def name(self) -> str:
        return self.label

    @property
    def n_steps(self) -> int:
        return self.size.n_steps

    @property
    def own_work(self) -> float:
        return float(self.size.n_steps if self.size.work is None else self.size.work)


def plain_config(raw: Raw) -> dict[str, Any]:
    """Without what is a language model's alone: the name of its model. The engine's keys are known
    before a run begins.
    """
    own = {k: v for k, v in raw.items() if k != "model_name" or v is not None}
    return {k: begun(v) if k in ENGINE else v for k, v in own.items()}


def check_engine(config: Raw) -> None:
    """Raises ValueError for the engine's keys, where they are missing or no such values."""
    missing = [name for name in ENGINE if name not in config]
    if missing:
        raise ValueError(
            f"{missing[0]} is not in the config; begin its primary yaml with `defaults: [engine, "
            "_self_]`"
        )
    for name, rule in _RULES.items():
        checked(config[name], rule, name)
    if set(config["paths"]) != {"results"}:
        raise ValueError(f"paths has {', '.join(config['paths'])}, and must have results alone")
