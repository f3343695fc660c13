"""Ray: points on the nodes of a Ray cluster (_cluster.py)."""

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from experiments.config.constraints import AtLeast1
from experiments.sweep.queues._cluster import Cluster, Nodes, work
from experiments.system.version import install


@dataclass(frozen=True, kw_only=True)
class Ray(Cluster):
    """As _cluster.Cluster. address: `auto` is this machine's. cpus: cores that Ray keeps for each
    point.
    """

    title: ClassVar[str] = "Ray"

    cpus: AtLeast1 = 1

    def example(self) -> str:
        return "hydra.launcher.address=auto on a node of it, or HOST:6379, as `ray start` prints"

    @contextmanager
    def connected(self) -> Iterator["_Nodes"]:
        try:
            ray: Any = importlib.import_module("ray")
        except ImportError:
            raise ValueError(f"hydra/launcher=ray needs Ray: {install('ray')}") from None
        try:
            ray.init(address=self.address, log_to_driver=False, logging_level="error")
        except (ConnectionError, RuntimeError, ValueError) as error:
            first = str(error).strip().splitlines()[0]
            raise RuntimeError(
                f"no Ray cluster answers at {self.address} ({first}); start one (`ray start "
                "--head`), or correct hydra.launcher.address"
            ) from None
        try:
            yield _Nodes(ray, self.cpus)
        finally:
            ray.shutdown()


class _Nodes(Nodes):
    def __init__(self, ray: Any, cpus: int) -> None:
        self.ray = ray
        self.cpus = cpus
        self.remote = ray.remote(num_cpus=cpus, max_retries=0)(work)

    def size(self) -> int:
        return max(1, int(self.ray.cluster_resources().get("CPU", 1) // self.cpus))

    def start(self, sweep_dir: str, folder: str, environment: Mapping[str, str]) -> Any:
        return self.remote.remote(sweep_dir, folder, dict(environment))

    def has_ended(self, handle: Any) -> bool:
        try:
            ready, _ = self.ray.wait([handle], timeout=0)
        except Exception as error:
            raise RuntimeError(
                f"the Ray cluster is gone ({type(error).__name__}); start it again, and give the "
                "same command again, which goes on"
            ) from error
        return bool(ready)
