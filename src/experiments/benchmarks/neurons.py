"""How few hidden units of a trained layer a token needs; takes overrides.

What a layer of retrieved experts can hope for in the place of a dense one. An oracle keeps each
token's units of the largest |h_i| ||w_out_i||, what a router could at best. Two rows are without
any unit: with the layer's mean output on the same text, which is a constant, and with nothing. The
overrides are those of experiments.run: init=..., trunk.ffn_blocks=[...], data=...
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from experiments.benchmarks.core.arguments import takes_overrides
from experiments.benchmarks.core.drafts import drafted
from experiments.data.batches import Batch
from experiments.data.prepare import prepare_data
from experiments.data.windows import ScoredWindows
from experiments.init.start import start
from experiments.models.blocks import chosen_blocks
from experiments.models.ffn._base import MLP
from experiments.models.transformer import Transformer, get_block
from experiments.points.layers import bases
from experiments.points.planning import plan_point
from experiments.points.point import Point
from experiments.system.environment import keep_freed_memory, usable_cores
from experiments.system.text_table import aligned
from experiments.training.evaluation import bytes_of_tokens, evaluate

DEFAULT = ("init=smollm2", "data.n_eval_tokens=3072")
KEPT = (16, 128, 256, 512, 768)


def arguments(parser: ArgumentParser) -> None:
    takes_overrides(parser)


def run(options: Namespace) -> None:
    """Prints a table of losses on the validation split."""
    given = ["budget=1e15", *(options.overrides or DEFAULT), "init.how=keep"]
    point = plan_point(drafted(given))
    torch.set_num_threads(point.config.trainer.n_threads or usable_cores())
    keep_freed_memory()
    print("\n".join(aligned([("units kept", "loss", "minus the whole"), *_rows(point)])))


def _rows(point: Point) -> list[tuple[str, str, str]]:
    config = point.config
    prepared = prepare_data(config.data, point.cache)
    model = point.transformer.build()
    blocks = chosen_blocks(config.trunk.ffn_blocks, config.size)
    assert config.init is not None
    weights = config.init.weights.state(point.cache)
    start(model, config.init, weights, bases(config), blocks, iter(()), seed=0)
    windows = ScoredWindows(
        prepared.validation,
        seq_len=config.data.seq_len,
        batch_size=1,
        max_tokens=config.data.n_eval_tokens,
    )
    sizes = bytes_of_tokens(prepared.validation, prepared.vocabulary)
    losses = {}
    d_ff = _layers(model, blocks)[0].w_in.out_features
    for kept in tqdm((d_ff, *KEPT, 0), "blocks " + ", ".join(map(str, blocks)), leave=False):
        with only(model, blocks, kept):
            losses[kept] = evaluate(model, windows, sizes, torch.device("cpu")).loss
    with constant(model, blocks, windows):
        mean = evaluate(model, windows, sizes, torch.device("cpu")).loss
    nothing = losses.pop(0)
    whole = losses[d_ff]
    rows = {**{str(k): loss for k, loss in losses.items()}, "mean output": mean, "none": nothing}
    return [(name, f"{loss:.4f}", f"{loss - whole:+.4f}") for name, loss in rows.items()]


def _layers(model: Transformer, blocks: tuple[int, ...]) -> list[MLP]:
    found = []
    for i in blocks:
        layer = get_block(model, i).ffn
        if not isinstance(layer, MLP):
            raise ValueError(f"block {i} holds {type(layer).__name__}, which has no units")
        found.append(layer)
    return found


@contextmanager
def only(model: Transformer, blocks: tuple[int, ...], kept: int) -> Iterator[None]:
    """Each token keeps its `kept` hidden units that write most, in these blocks' dense layers."""

    def cut(w_out: nn.Linear, inputs: tuple[Tensor]) -> tuple[Tensor]:
        hidden = inputs[0]
        best = (hidden.abs() * w_out.weight.norm(dim=0)).topk(kept, dim=-1).indices
        return (torch.zeros_like(hidden).scatter(-1, best, hidden.gather(-1, best)),)

    with ExitStack() as hooks:
        for layer in _layers(model, blocks):
            hooks.enter_context(layer.w_out.register_forward_pre_hook(cut))
        yield


@contextmanager
def constant(
    model: Transformer, blocks: tuple[int, ...], windows: Iterable[Batch]
) -> Iterator[None]:
    """Each of these dense layers gives its mean output on the windows, whatever its input."""
    layers, n_tokens = _layers(model, blocks), 0
    sums = [torch.zeros_like(layer.w_out.weight[:, 0]) for layer in layers]

    def add(total: Tensor, _: Any, __: Any, y: Tensor) -> None:
        total += y.sum((0, 1))

    def mean(total: Tensor, _: Any, __: Any, y: Tensor) -> Tensor:
        return (total / n_tokens).expand_as(y)

    def hooked(act: Callable[..., Any]) -> ExitStack:
        hooks = ExitStack()
        for layer, total in zip(layers, sums, strict=True):
            hooks.enter_context(layer.register_forward_hook(partial(act, total)))
        return hooks

    with torch.no_grad(), hooked(add):
        for inputs, _, _ in windows:
            model(inputs)
            n_tokens += inputs.numel()
    with hooked(mean):
        yield
