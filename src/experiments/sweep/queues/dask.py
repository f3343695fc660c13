"""Dask: points on the nodes of a Dask cluster, by dask.distributed (_cluster.py)."""

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from experiments.sweep.queues._cluster import Cluster, Nodes, work
from experiments.system.version import install

_TIMEOUT = 10.0  # seconds


@dataclass(frozen=True, kw_only=True)
class Dask(Cluster):
    """As _cluster.Cluster. As many as fit is one for each Dask worker."""

    title: ClassVar[str] = "Dask"

    def example(self) -> str:
        return "hydra.launcher.address=tcp://HOST:8786, which `dask scheduler` prints"

    @contextmanager
    def connected(self) -> Iterator["_Nodes"]:
        try:
            distributed: Any = importlib.import_module("distributed")
        except ImportError:
            raise ValueError(f"hydra/launcher=dask needs Dask: {install('dask')}") from None
        try:
            client = distributed.Client(self.address, timeout=_TIMEOUT, set_as_default=False)
        except (OSError, ValueError) as error:
            raise RuntimeError(
                f"no Dask scheduler answers at {self.address} ({error}); start one (`dask "
                "scheduler`), or correct hydra.launcher.address"
            ) from None
        try:
            yield _Nodes(client, self.address)
        finally:
            client.close(timeout=_TIMEOUT)


class _Nodes(Nodes):
    def __init__(self, client: Any, address: str | None) -> None:
        self.client, self.address = client, address

    def size(self) -> int:
        return max(1, len(self.client.scheduler_info(n_workers=-1)["workers"]))

    def start(self, sweep_dir: str, folder: str, environment: Mapping[str, str]) -> Any:
        return self.client.submit(work, sweep_dir, folder, dict(environment), pure=False)

    def lack(self) -> str:
        if self.client.scheduler_info(n_workers=-1)["workers"]:
            return ""
        return f"the scheduler has no workers; start some, by `dask worker {self.address}`"

    def has_ended(self, handle: Any) -> bool:
        if self.client.status not in ("running", "connecting"):
            raise RuntimeError(
                f"the Dask scheduler at {self.address} is gone; start it again, "
                "and give the same command again, which goes on"
            )
        return bool(handle.done() or handle.status in ("cancelled", "lost"))
