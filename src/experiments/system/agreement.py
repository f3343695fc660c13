"""Agreement of the processes that train a run, before they train: on what each finds on its disk.

They tell each other in the store that torch.distributed's group is made by later, so that models
see no group before there is one.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch.distributed.rendezvous import rendezvous

from experiments.system import started
from experiments.system.distributed import Ranks, cluster_environment
from experiments.system.seals import find_damage, seal_path

_WAIT = timedelta(hours=1)  # of one for another, who hashes a large file of a slow disk


class _Told:
    """store: while it is held, of a first process that made it, others can read it. n: what has
    been told so far, which each process counts alike.
    """

    store: Any = None
    n = 0


def told_by_all(ranks: Ranks | None, mine: str) -> list[str]:
    """Words of each process, by rank, once all have spoken. All must come here equally often.
    None: there are no others.
    """
    if ranks is None or ranks.world_size == 1:
        return [mine]
    if torch.distributed.is_initialized():
        said: list[Any] = [None] * ranks.world_size
        torch.distributed.all_gather_object(said, mine)
        return said
    if _Told.store is None:
        _Told.store = _find_store(ranks)
    _Told.n += 1
    store, n, every = _Told.store, _Told.n, range(ranks.world_size)
    store.set(f"told/{n}/{started.rank()}", mine)
    told = [store.get(f"told/{n}/{rank}").decode() for rank in every]
    store.set(f"heard/{n}/{started.rank()}", "")
    if started.rank() == 0:  # it may end after this, and the store with it
        store.wait([f"heard/{n}/{rank}" for rank in every])
    return told


def forget() -> None:
    """Lets the store go, once the group has ended: the next one is made by a new one."""
    _Told.store = None


def _find_store(ranks: Ranks) -> Any:
    """Where torch.distributed's group meets, and Lightning makes it meet."""
    environment = cluster_environment(ranks)
    os.environ["MASTER_ADDR"] = environment.main_address
    os.environ["MASTER_PORT"] = str(environment.main_port)
    meeting = rendezvous("env://", started.rank(), ranks.world_size, timeout=_WAIT)
    return next(iter(meeting))[0]


@dataclass(frozen=True, kw_only=True)
class Look:
    """A checkpoint as all processes find it. seen_by, missed_by: the ranks that find the file, and
    those that don't. why: what keeps one of them from going on from it, or None.
    """

    seen_by: frozenset[int]
    missed_by: frozenset[int]
    why: str | None


def look_at(path: Path, ranks: Ranks | None = None, table_ranks: int = 1) -> Look:
    """Each looks at what it would read itself, and all come to the same.

    Raises as find_damage does.

    table_ranks: how many that follow each other have the columns of its tables between them.
    """
    own = (started.rank() % table_ranks, table_ranks)
    there = path.exists()
    why = find_damage(path, own) if there else "it is missing"
    seal = seal_path(path) if there and why is None else ""
    told = [json.loads(text) for text in told_by_all(ranks, json.dumps([there, why, seal]))]
    seen_by = frozenset(rank for rank, (there, _, _) in enumerate(told) if there)
    return Look(
        seen_by=seen_by,
        missed_by=frozenset(range(len(told))) - seen_by,
        why=_find_first((why for _, why, _ in told), [seal for _, _, seal in told]),
    )


def _find_first(whys: Iterable[str | None], seals: list[str]) -> str | None:
    for rank, why in enumerate(whys):
        if why is not None:
            return why if len(seals) == 1 else f"{why}, for process {rank}"
    others = [rank for rank, seal in enumerate(seals) if seal != seals[0]]
    return f"process {others[0]} has another one" if others else None
