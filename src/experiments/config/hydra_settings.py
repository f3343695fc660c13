"""Settings of Hydra's own that have no effect on our runs: each is refused, and none is ignored."""

import importlib.resources
from collections.abc import Collection, Mapping
from typing import Any

from hydra.experimental.callback import Callback
from hydra.utils import get_object
from omegaconf import OmegaConf

from experiments.config.constraints import shown
from experiments.config.hydra_hints import NO_EFFECT

_ENVIRONMENT = "set variables in the shell before the command, or of a cluster in its jobs"
# of sweeps, by path: what leaves it unset, and the remedy
_SWEEPS = {
    "job.env_copy": ([], _ENVIRONMENT),  # before what Hydra makes of it: values that may be secret
    "job.env_set": ({}, _ENVIRONMENT),
    "verbose": (False, "leave it out"),
}
_JOB_CALLS = ("on_job_start", "on_job_end")


def check_folders(hydra: Any) -> None:
    """Raises ValueError for a folder of Hydra's: a run has its own."""
    plain = _plain(hydra)
    for path, remedy in NO_EFFECT.items():
        value = _found(plain, path.removeprefix("hydra."))
        if value not in (None, False, "."):
            raise ValueError(f"{path}={shown(value)} has no effect here; {remedy}")


def check_sweep(hydra: Any, logging: Collection[str]) -> None:
    """Raises ValueError for those, and for a setting that reaches no point of a sweep. logging:
    choices of hydra/job_logging that are as good as followed.
    """
    check_folders(hydra)
    plain = _plain(hydra)
    for path, (unset, remedy) in _SWEEPS.items():
        value = _found(plain, path)
        if value != unset:
            raise ValueError(f"hydra.{path}={shown(value)} reaches no point of a sweep; {remedy}")
    files = importlib.resources.files("hydra.conf") / "hydra" / "job_logging"
    known = [OmegaConf.create((files / f"{name}.yaml").read_text()) for name in logging]
    if plain["job_logging"] not in [OmegaConf.to_container(one) for one in known]:
        raise ValueError(
            f"hydra/job_logging={hydra.runtime.choices['hydra/job_logging']} reaches no point of a "
            f"sweep, whose output is its log.txt; take hydra/job_logging={' or '.join(logging)}"
        )
    for name, node in plain["callbacks"].items():
        made = get_object(node["_target_"])
        for call in _JOB_CALLS:
            if getattr(made, call, None) not in (None, getattr(Callback, call)):
                raise ValueError(
                    f"hydra.callbacks.{name}: {call} of {node['_target_']} is not called for "
                    "points of a sweep; do it in the run itself, or leave it out"
                )


def _plain(hydra: Any) -> Mapping[str, Any]:
    values = OmegaConf.to_container(hydra)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _found(values: Mapping[str, Any], path: str) -> Any:
    node: Any = values
    for key in path.split("."):
        node = node[key]
    return node
