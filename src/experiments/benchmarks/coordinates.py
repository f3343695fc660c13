"""Sizes of outputs over widths (docs/parametrization.md); takes overrides.

How the sizes of outputs, and of their changes in the first steps, depend on the width: not at all,
where the parametrization is right. Overrides are those of experiments.run, as model=peer
optim.parametrization=mup ladder.lr=2e-3. Two blocks with the layer, on a made text of 16 words.

Yang 2022 (arXiv:2203.03466, App. D.1): where a parametrization is right, the root mean square of
each output and of its change since the start depends on the width by no power. Here also of the
share of experts that are used, and the spread of the gates' logarithms.

The text is made: chains of a few words, so that sizes are near those of the limit at small widths
already. The head starts at zero, as microsoft/mup advises: its random start vanishes with the
width, and would hide what is learnt. So the first step moves the head alone.
"""

import math
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from experiments.benchmarks.core.arguments import parse_numbers, takes_overrides
from experiments.benchmarks.core.drafts import drafted
from experiments.benchmarks.core.loop import Loop
from experiments.config.optim import Optim
from experiments.models.residuals.residual import Block
from experiments.models.transformer import Transformer, TransformerConfig
from experiments.optim.groups import build_optimizer
from experiments.points.planning import peak_rate
from experiments.system.command import at_least
from experiments.system.disk import check_file
from experiments.system.text_table import aligned

WIDTHS = (32, 64, 128, 256, 512)
STEPS = (2, 3, 5, 10)
FLAT = 0.1  # a slope below it is none
_WORDS, _SEQ, _BATCH, _FOLLOW = 16, 16, 8, 4
_TINY = 1e-12  # instead of 0, whose logarithm is none


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model of one width, its peak learning rate and how it is stepped."""

    model: TransformerConfig
    lr: float
    optim: Optim


@dataclass(frozen=True, kw_only=True)
class Coordinate:
    """A size over the widths. what: output | change (since the start) | used | spread.

    where: of the model, by the modules' names; step: after how many; values: geometric means over
    seeds; slope: of their logarithm against that of the width.
    """

    what: str
    where: str
    step: int
    values: tuple[float, ...]
    slope: float

    @property
    def is_flat(self) -> bool:
        return abs(self.slope) < FLAT


def check_coordinates(
    subject_of: Callable[[int], Subject],
    widths: Sequence[int] = WIDTHS,
    *,
    seeds: Sequence[int] = (0, 1),
    steps: Sequence[int] = STEPS,
    progress: Callable[[str], object] = lambda text: None,
) -> list[Coordinate]:
    """Checks the models that subject_of(d_model) gives, at the start and after each of `steps`."""
    found: list[list[dict[tuple[str, str, int], float]]] = []
    for width in widths:
        progress(f"d_model={width}")
        found.append([sizes(subject_of(width), steps, seed) for seed in seeds])
    log_width = np.log(widths)
    coordinates = []
    for what, where, step in found[0][0]:
        key = what, where, step
        logs = [np.mean([math.log(max(run[key], _TINY)) for run in runs]) for runs in found]
        coordinates.append(
            Coordinate(
                what=what,
                where=where,
                step=step,
                values=tuple(float(np.exp(value)) for value in logs),
                slope=float(np.polyfit(log_width, logs, 1)[0]),
            )
        )
    return coordinates


def sizes(subject: Subject, steps: Sequence[int], seed: int) -> dict[tuple[str, str, int], float]:
    """Measurements of one model, by what, where and step; at 0 too."""
    torch.manual_seed(seed)
    model = replace(subject.model, vocab_size=_WORDS, seq_len=_SEQ, document_end=None).build()
    with torch.no_grad():
        model.head.weight.zero_()
    optimizer = build_optimizer(model, subject.lr, subject.optim, "torch")
    text = made_text(seed)
    found: dict[tuple[str, str, int], float] = {}
    first: dict[str, Tensor] = {}
    batch = text[:, :-1], text[:, 1:]
    loop = Loop(model, [[batch]], optimizer, grad_clip=subject.optim.grad_clip)
    with _listening(model) as (outputs, gates):
        for step in range(max(steps) + 1):
            loop.step()  # what the hooks keep is of its forward pass, before it
            first = first or dict(outputs)
            if step == 0 or step in steps:
                found |= {(*key, step): v for key, v in _sizes(outputs, first, gates, step)}
    return found


def made_text(seed: int) -> Tensor:
    """(batch, seq + 1) words, each followed by one of a few that its predecessor allows."""
    generator = torch.Generator().manual_seed(seed)
    follow = torch.randint(_WORDS, (_WORDS, _FOLLOW), generator=generator)
    words = [torch.randint(_WORDS, (_BATCH,), generator=generator)]
    for _ in range(_SEQ):
        which = torch.randint(_FOLLOW, (_BATCH,), generator=generator)
        words.append(follow[words[-1], which])
    return torch.stack(words, dim=1)


class _Gates:
    """Last pass's, of one layer."""

    def __init__(self, n_experts: int) -> None:
        self.n_experts = n_experts
        self.indices = self.gates = torch.zeros(0)

    def add(self, indices: Tensor, gates: Tensor) -> None:
        self.indices, self.gates = indices.detach(), gates.detach()


@contextmanager
def _listening(model: Transformer) -> Iterator[tuple[dict[str, Tensor], dict[str, Any]]]:
    """Last pass's outputs of embedding, blocks, their parts and head; and layers' gates."""
    outputs: dict[str, Tensor] = {}
    gates: dict[str, Any] = {}
    places: dict[str, nn.Module] = {"embedding": model.embedding, "head": model.head}
    for i, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        places |= {f"attention {i}": block.attention, f"layer {i}": block.ffn, f"block {i}": block}
        for layer in block.ffn.layers():
            if layer.n_experts:
                layer.meter = gates[f"layer {i}"] = _Gates(layer.n_experts)

    def keep(name: str, _: nn.Module, __: Any, output: Tensor) -> None:
        outputs[name] = output.detach()

    with ExitStack() as hooks:
        for name, module in places.items():
            hooks.enter_context(module.register_forward_hook(partial(keep, name)))
        yield outputs, gates


def _sizes(
    outputs: dict[str, Tensor], first: dict[str, Tensor], gates: dict[str, Any], step: int
) -> Iterator[tuple[tuple[str, str], float]]:
    for name, output in outputs.items():
        if name == "head" and step == 0:
            continue  # zero
        yield ("output", name), _rms(output)
        if step:
            yield ("change", name), _rms(output - first[name])
    for name, seen in gates.items():
        yield ("used", name), len(seen.indices.unique()) / seen.n_experts
        yield ("spread", name), float(seen.gates.double().clamp(min=_TINY).log().std())


def _rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())


def arguments(parser: ArgumentParser) -> None:
    takes_overrides(parser)
    parser.add_argument("--widths", default=",".join(map(str, WIDTHS)), metavar="N,...")
    parser.add_argument("--seeds", type=at_least(1), default=2, metavar="N", help="(default 2)")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="sizes over widths, a PNG")


def run(options: Namespace) -> None:
    widths = parse_numbers("--widths", options.widths)
    if len(widths) < 2:
        raise ValueError(f"--widths {options.widths}: a slope needs two widths or more")
    if options.figure is not None:
        if options.figure.suffix != ".png":
            raise ValueError(f"--figure {options.figure} must be a PNG, with a name in .png")
        check_file(options.figure, "--figure")
    found = check_coordinates(
        partial(_subject, options.overrides),
        widths,
        seeds=range(options.seeds),
        progress=lambda text: print(text, file=sys.stderr, flush=True),
    )
    heads = ("size", "of", "step", *map(str, widths), "slope")
    rows = [
        (c.what, c.where, str(c.step), *(f"{v:.3g}" for v in c.values), f"{c.slope:+.2f}")
        for c in found
    ]
    marks = ["", *("" if c.is_flat else "  <" for c in found)]
    print("\n".join(line + mark for line, mark in zip(aligned([heads, *rows]), marks, strict=True)))
    n = sum(not c.is_flat for c in found)
    print(f"{n} of {len(found)} slopes are {FLAT:g} or more in size (<)")
    if options.figure is not None:
        _draw(found, widths).savefig(options.figure, dpi=150)


def _subject(overrides: Sequence[str], d_model: int) -> Subject:
    width = ("ladder.d_per_layer=null", f"++ladder.d_model={d_model}")
    given = ["size=2", "trunk.ffn_blocks=all", "ladder.d_head=16", *overrides, *width]
    draft = drafted(given)
    return Subject(
        model=draft.transformer,
        lr=peak_rate(draft.config.optim, draft.transformer),
        optim=draft.config.optim,
    )


def _draw(found: Sequence[Coordinate], widths: Sequence[int]) -> Any:
    """A panel for each size, at its last step; a line for each place."""
    from matplotlib.figure import Figure

    last = max(c.step for c in found)
    places = list(dict.fromkeys(c.where for c in found))
    kinds = [what for what in ("output", "change", "used", "spread") if _select(found, what, last)]
    figure = Figure(figsize=(3.3 * len(kinds), 3.2), layout="constrained")
    for axis, what in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        for c in _select(found, what, last):
            colour = f"C{places.index(c.where)}"
            axis.plot(widths, c.values, "o-", color=colour, markersize=3, label=c.where)
        axis.set(xscale="log", yscale="log", xlabel="d_model", title=f"{what}, step {last}")
        low, high = axis.get_ylim()
        wider = max(1.0, math.sqrt(30 * low / high))  # a factor 30, else noise would fill it
        axis.set_ylim(low / wider, high * wider)
        axis.set_xticks(widths, labels=[str(w) for w in widths])
        axis.xaxis.minorticks_off()
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=7
    )
    return figure


def _select(found: Sequence[Coordinate], what: str, step: int) -> list[Coordinate]:
    return [c for c in found if (c.what, c.step) == (what, step)]
