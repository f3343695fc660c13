"""Several LoRAs as one: their weighted sum, exact or nearest of a lower rank."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from experiments.adapters.library import LoRALibrary
from experiments.adapters.lora_files import LoRA, LowRank


def merge_loras(loras: Sequence[LoRA], gates: Sequence[float], name: str) -> LoRA:
    """Sum of adapters times their gates, exactly: its rank is the sum of theirs. That is peft's
    add_weighted_adapter(combination_type="cat").

    Raises ValueError for fewer than two, for gates that are no numbers, and for adapters of
    different weights or shapes.
    """
    if len(loras) < 2:
        raise ValueError(f"{len(loras)} adapters are named; a merge is of two or more")
    if bad := [gate for gate in gates if not math.isfinite(gate)]:
        raise ValueError(f"the gate {bad[0]} must be a finite number")
    bases = {lora.base for lora in loras} - {None}
    if len(bases) > 1:
        raise ValueError(f"the adapters {_names(loras)} were trained on different weights")
    parts: dict[str, list[LowRank]] = {}
    for lora, gate in zip(loras, gates, strict=True):
        for path, one in lora.maps.items():
            own = _without_zeros(one)
            parts.setdefault(path, []).append(LowRank(down=own.down, up=gate * own.up))
    if other := [path for path, found in parts.items() if len({one.shape for one in found}) > 1]:
        raise ValueError(f"the adapters {_names(loras)} are for different models: {other[0]}")
    maps = {
        path: LowRank(
            down=torch.cat([one.down for one in found]), up=torch.cat([one.up for one in found])
        )
        for path, found in parts.items()
    }
    return LoRA(name=name, base=next(iter(bases), None), maps=maps)


def lower_rank(lora: LoRA, rank: int) -> tuple[LoRA, float]:
    """Nearest adapter of a rank, at each map in the squared norm of what it adds to the weight; and
    the share of that norm, over all maps, that it keeps.

    By a singular value decomposition, which is the best (Eckart and Young 1936).
    """
    if rank < 1:
        raise ValueError(f"rank={rank} must be at least 1")
    maps, kept, whole = {}, 0.0, 0.0
    for path, one in lora.maps.items():
        # of the small matrix between two orthonormal bases: (d_out, r) and (r, d_in)
        q_up, r_up = torch.linalg.qr(one.up.double().T)
        q_down, r_down = torch.linalg.qr(one.down.double().T)
        left, sizes, right = torch.linalg.svd(r_up @ r_down.T)
        n = min(rank, len(sizes))
        root = sizes[:n].sqrt()
        up, down = (q_up @ left[:, :n]) * root, root[:, None] * (right[:n] @ q_down.T)
        maps[path] = LowRank(down=_as(down, one.down), up=_as(up.T, one.up))
        kept += float(sizes[:n].square().sum())
        whole += float(sizes.square().sum())
    lowered = LoRA(name=lora.name, base=lora.base, maps=maps)
    return lowered, kept / whole if whole else 1.0


def merge_in(
    library: LoRALibrary, gates: Mapping[str, float], name: str, rank: int | None = None
) -> float:
    """Adds the merge of some adapters of a library to it, under a name; the others stay as they
    are. Returns the share of its squared norm that a lower rank keeps; 1 of an exact one.

    rank: None for the exact merge. Raises ValueError as merge_loras and LoRALibrary.add do.
    """
    loras = [library.adapter(one) for one in gates]
    merged, share = merge_loras(loras, list(gates.values()), name), 1.0
    if rank is not None and rank < merged.rank:
        merged, share = lower_rank(merged, rank)
    if merged.rank > library.rank:
        raise ValueError(
            f"the exact merge has rank {merged.rank}, and the library holds up to {library.rank}; "
            f"give rank={library.rank} for the nearest one of that rank"
        )
    library.add(merged, name)
    return share


def _without_zeros(one: LowRank) -> LowRank:
    """Components that add something: a library has each adapter in its own rank."""
    used = one.down.ne(0).any(1) & one.up.ne(0).any(1)
    used[0] |= not bool(used.any())
    return LowRank(down=one.down[used], up=one.up[used])


def _as(rows: Tensor, like: Tensor) -> Tensor:
    return rows.to(like.dtype).contiguous()


def _names(loras: Sequence[LoRA]) -> str:
    return ", ".join(lora.name for lora in loras)
