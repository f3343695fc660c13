"""124 M parameters of GPT-2's shape: tokens/s and MFU, with and without compile."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from experiments.benchmarks.core.loop import Sizes, TableGradient
from experiments.benchmarks.core.memory import release
from experiments.benchmarks.core.rates import square_rate
from experiments.budget.costs import FFNConfig
from experiments.gpu import toy
from experiments.gpu.goals import (
    COMPILE,
    DENSE_MFU,
    DENSE_TOKENS,
    LLM_C,
    MOE_OF_DENSE,
    NANOCHAT,
    data_sheet,
)
from experiments.gpu.job import Job
from experiments.gpu.timed import make_loop, time_call
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.moe import MoEConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.models.ffn.pkm import PKMConfig
from experiments.models.transformer import TransformerConfig
from experiments.training.compiled import CompileClock

WORTH = 60
SECONDS = 150

GPT2 = Sizes(  # Radford 2019's smallest; 50,257 entries made a multiple of 128, as llm.c does
    d_model=768, d_head=64, n_layers=12, vocab_size=50304, seq_len=1024, sequences=32
)
_COMPILE_SECONDS = 45  # left, or a model is not compiled


@dataclass(frozen=True, kw_only=True)
class _Model:
    ffn: FFNConfig
    blocks: str | Sequence[int]
    gradient: TableGradient = "rows"


def _models(small: bool) -> Mapping[str, _Model]:
    """conf/model/*.yaml's, the mixture in all blocks, tables in the middle one."""
    peer, pkm = (toy.PEER, toy.PKM) if small else (PEERConfig(), PKMConfig())
    fine = MoEConfig(
        n_experts=8 if small else 128,
        routing="token_choice",
        top_k=2 if small else 7,
        gate="sigmoid",
        granularity=8.0,
        n_shared_experts=1,
        balance="bias",
        balance_rate=1e-3,
    )
    return {
        "dense": _Model(ffn=DenseConfig(), blocks="middle"),
        "fine MoE": _Model(ffn=fine, blocks="all"),
        "PEER": _Model(ffn=peer, blocks="middle"),
        "PKM": _Model(ffn=pkm, blocks="middle"),
    }


@dataclass(frozen=True, kw_only=True)
class _Speed:
    tokens: float  # a second
    flops: float  # counted, a second


def run(job: Job) -> None:
    """Dense first, both ways; the others as they are; and compiled, as far as the time goes."""
    sizes = replace(toy.SIZES, n_micro=1) if job.toy else GPT2
    peak = square_rate(job.device, torch.bfloat16)
    sheet = data_sheet(job.card) or peak
    job.note(tokens_a_step=sizes.step_tokens, peak_flops=peak, data_sheet_flops=sheet)
    models = _models(job.toy)
    found: dict[tuple[str, str], _Speed] = {}
    order = [("dense", "eager"), ("dense", "compiled"), *((m, "eager") for m in models)]
    order += [(m, "compiled") for m in models]
    for which, how in dict.fromkeys(order):
        if how == "compiled" and job.seconds_left() < _COMPILE_SECONDS:
            job.note(**{f"{which}, {how}": "left out: too little time"})
            continue
        speed = _measure(job, sizes, which, models[which], how, peak, sheet)
        if speed is not None:
            found[which, how] = speed
            _compare(job, found, which, how)


def _measure(
    job: Job, sizes: Sizes, which: str, model: _Model, how: str, peak: float, sheet: float
) -> _Speed | None:
    """None, and a note why, for one that does not fit or can't be compiled."""
    release(job.device)
    config = sizes.model(model.ffn, model.blocks)
    try:
        # a table's gradient of rows is nothing that a compiled graph could return
        gradient: TableGradient = "dense" if how == "compiled" else model.gradient
        loop = make_loop(job, config, sizes, gradient=gradient)
        if how == "compiled":
            # at toy size the forward graphs alone: all graphs and their C++ would take a minute
            loop.compile("eager" if job.toy else "inductor")
            clock = CompileClock()
            with clock.counted():
                loop.step()
            job.add(f"{which}: torch.compile", clock.seconds, "s")
        seconds = time_call(job, loop.step, rounds=5, label=f"{which}, {how}")
    except Exception as error:  # of a compiler or an allocator; the other models still count
        if which == "dense":
            raise
        first = (str(error).strip().splitlines() or [""])[0]
        job.note(**{f"{which}, {how}": f"{type(error).__name__}: {first}"})
        return None
    tokens = sizes.step_tokens / seconds
    flops = tokens * config.cost().training_flops
    of_dense = which == "dense" and how == "compiled"
    job.add(
        f"{which}, {how}: tokens/s",
        tokens,
        goal=DENSE_TOKENS if of_dense else None,
        anchor=LLM_C if of_dense else "",
        note=f"{1e3 * seconds:.4g} ms a step, {config.cost().n_params / 1e6:,.0f} M "
        f"parameters, tables' gradients: {gradient}",
    )
    job.add(
        f"{which}, {how}: MFU of the measured peak, counted FLOPs",
        flops / peak,
        anchor=NANOCHAT if of_dense else "",
    )
    if which == "dense":
        job.add(
            f"{which}, {how}: MFU of the data sheet's peak, 6 N + 12 L d S",
            tokens * _usual_flops(config) / sheet,
            goal=DENSE_MFU if of_dense else None,
            anchor=LLM_C if of_dense else "",
        )
    return _Speed(tokens=tokens, flops=flops)


def _usual_flops(config: TransformerConfig) -> int:
    """A token's: 6 N + 12 L d S, as the anchors count (Chowdhery 2022, arXiv:2204.02311, B)."""
    context = 12 * len(config.ffns) * config.d_model * config.seq_len
    return 6 * config.cost().n_params + context


def _compare(job: Job, found: Mapping[tuple[str, str], _Speed], which: str, how: str) -> None:
    own = found[which, how]
    if how == "compiled" and (which, "eager") in found:
        eager = found[which, "eager"].tokens
        job.add(
            f"{which}: compiled over eager",
            own.tokens / eager,
            anchor=COMPILE if which == "dense" else "",
        )
    if which != "dense" and ("dense", how) in found:
        job.add(
            f"{which}, {how}: MFU over dense's",
            own.flops / found["dense", how].flops,
            goal=MOE_OF_DENSE if which == "fine MoE" else None,
            anchor=NANOCHAT if which == "fine MoE" else "",
        )
