"""A loop that is saved, built again and goes on, against an uninterrupted one."""

import tempfile
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.benchmarks.core.loop import Loop, Sizes, TableGradient
from experiments.benchmarks.core.memory import release
from experiments.budget.costs import FFNConfig
from experiments.gpu import toy
from experiments.gpu.fine import fine_moe
from experiments.gpu.goals import NONE_DIFFERS
from experiments.gpu.job import Job
from experiments.gpu.timed import make_loop
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.training.deterministic import set_deterministic

WORTH = 40
SECONDS = 45

SIZES = Sizes(
    d_model=512, d_head=64, n_layers=4, vocab_size=8192, seq_len=512, sequences=8, n_micro=2
)
_BEFORE, _AFTER = 3, 3  # steps around the interruption
_LR = 1e-3  # so large that a lost moment shows


def run(job: Job) -> None:
    """Each layer three times: twice without an interruption, which is the card's own noise."""
    set_deterministic(True)
    sizes = toy.SIZES if job.toy else SIZES
    for name, (ffn, gradient) in _layers(job.toy).items():
        whole, again, resumed = (
            _weights(job, sizes, name, ffn, gradient, interrupted=how)
            for how in (False, False, True)
        )
        noise, apart = _differing(whole, again), _differing(whole, resumed)
        job.add(f"{name}: entries that two uninterrupted loops differ in", noise)
        job.add(
            f"{name}: entries that a resumed loop differs in",
            apart,
            # where the card itself does not repeat, the distance says how far; else it must be 0
            goal=NONE_DIFFERS if not noise else None,
            note=f"furthest {_furthest(whole, resumed):.3g} apart, "
            f"uninterrupted {_furthest(whole, again):.3g}",
        )


def _layers(small: bool) -> Mapping[str, tuple[FFNConfig, TableGradient]]:
    n, d_key = (64, 8) if small else (256**2, 128)
    peer = PEERConfig(n_experts=n, n_heads=2, top_k=4, d_key=d_key)
    return {
        "dense": (DenseConfig(), "dense"),
        "PEER, dense": (peer, "dense"),
        "PEER, rows": (peer, "rows"),
        "fine MoE": (fine_moe(8), "dense"),
    }


def _weights(
    job: Job,
    sizes: Sizes,
    name: str,
    ffn: FFNConfig,
    gradient: TableGradient,
    *,
    interrupted: bool,
) -> dict[str, Tensor]:
    release(job.device)

    def make() -> Loop:
        return make_loop(job, sizes.model(ffn), sizes, gradient=gradient, lr=_LR, spread=False)

    loop = make()
    for _ in range(_BEFORE):
        loop.step()
    if interrupted:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "last.ckpt"
            torch.save(loop.state(), path)
            loop = make()
            saved = torch.load(path, map_location=job.device, weights_only=True)
            loop.load(saved)
            lost = _lost(saved, loop.state())
            job.add(f"{name}: tensors of the state that loading lost", lost, goal=NONE_DIFFERS)
    for _ in range(_AFTER):
        loop.step()
    return {name: tensor.clone() for name, tensor in loop.model.state_dict().items()}


def _lost(saved: Any, loaded: Any) -> int:
    """Tensors and numbers of a saved state that another one lacks, or has other bits of."""
    if isinstance(saved, Mapping):
        own = loaded if isinstance(loaded, Mapping) else {}
        return sum(_lost(value, own.get(key)) for key, value in saved.items())
    if isinstance(saved, list | tuple):
        each = loaded if isinstance(loaded, list | tuple) else ()
        return sum(_lost(a, b) for a, b in zip_longest(saved, each))
    if isinstance(saved, Tensor):
        same = isinstance(loaded, Tensor) and torch.equal(saved.cpu(), loaded.cpu())
        return int(not same)
    return int(saved != loaded)


def _differing(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> int:
    return sum(int((a[name] != b[name]).sum()) for name in a)


def _furthest(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)
