"""Ablation on texts, each a domain: units are documents, or windows of a text that has none."""

import sys
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from experiments.data.batches import IGNORED
from experiments.data.windows import ScoredWindows
from experiments.inspection.ablation.choosing import Choice, by_lift, equal_mass
from experiments.inspection.ablation.result import FEWEST, Ablation, Changes, rows_of_texts
from experiments.inspection.editing.applying import removed
from experiments.inspection.editing.patch import LayerEdits
from experiments.inspection.interface import Inspected, find_device, listening
from experiments.inspection.statistics import Bounds, counted
from experiments.inspection.texts import Text
from experiments.models.tokens import Tokens
from experiments.models.transformer import Transformer
from experiments.system.environment import without_denormals
from experiments.training.evaluation import evaluate


class Units:
    """Units of a text, by the places of its targets: n of them, of which the numbers in `told`
    have a target.
    """

    def __init__(self, text: Text, windows: ScoredWindows, end_of_text: int) -> None:
        self.windows, self.name = windows, text.name
        self._ends = np.flatnonzero(text.tokens[0 : len(text.tokens)] == end_of_text) + 1
        self.kind = "document" if len(self._ends) > 1 else "window"
        self.n = int(self.of(np.array([len(text.tokens) - 1]))[0]) + 1
        self.told = np.unique(
            np.concatenate([np.unique(self.of(windows.places(i))) for i in range(len(windows))])
        )

    def of(self, places: np.ndarray) -> np.ndarray:
        """Number of each, from 0."""
        if self.kind == "window":
            return (places - 1) // self.windows.seq_len
        return np.searchsorted(self._ends, places, side="right")


def make_units(
    texts: Sequence[Text], seq_len: int, batch_size: int, end_of_text: int, *, halved: bool
) -> list[Units]:
    """Units of each text. Raises ValueError for one with too few for an interval."""
    found = []
    for text in texts:
        windows = ScoredWindows(
            text.tokens, seq_len=seq_len, batch_size=batch_size, max_tokens=text.max_tokens
        )
        units = Units(text, windows, end_of_text)
        n = int((units.told % 2 == 1).sum()) if halved else len(units.told)
        if n < FEWEST:
            half = " (every second one, since the others choose the experts)" if halved else ""
            raise ValueError(
                f"{text.name} has {n} {units.kind}s to tell of{half}, and an interval is told of "
                f"at least {FEWEST}; give more text"
            )
        found.append(units)
    return found


@without_denormals()
def ablate_texts(
    model: Transformer, layer: Inspected, units: Sequence[Units], choice: Choice
) -> Ablation:
    """Changes of each text's loss. Experts of a domain are chosen by units of even numbers, and
    all that is told is of the odd ones. The model is in evaluation mode, and as it was afterwards.

    Raises ValueError for an index that is not of the layer, and where too few experts are read.
    """
    halved = choice.experts is None
    if choice.experts is not None:
        LayerEdits(removed=choice.experts).check(layer.name, layer.n_experts)
    mass = text_mass(model, layer, units, halved=halved)
    if choice.experts is not None:
        chosen = np.array(choice.experts, np.int64)
    else:
        chosen = by_lift(mass, [one.name for one in units].index(str(choice.domain)), choice.top)
    overall = (mass / mass.sum(1, keepdims=True)).mean(0)
    rng = np.random.default_rng(choice.seed)
    draws = [equal_mass(overall, chosen, rng) for _ in range(choice.draws)]
    variants = [chosen[:0], chosen, *draws]
    nats = [np.zeros((len(variants), one.n)) for one in units]
    bar = tqdm(
        total=len(variants) * sum(len(one.windows) for one in units), desc="scoring", unit="batch",
        leave=False, disable=not sys.stderr.isatty(),
    )  # fmt: skip
    with bar:
        for number, experts in enumerate(variants):
            with removed(layer, experts):
                sizes = [
                    add_losses(model, *one, bar) for one in zip(units, (n[number] for n in nats))
                ]
    changes = []
    for one, total, size in zip(units, nats, sizes, strict=True):
        unit = np.flatnonzero((size > 0) & ((np.arange(one.n) % 2 == 1) | (not halved)))
        change = total[1:, unit] - total[0, unit]
        changes.append(
            Changes(name=one.name, unit=unit, tokens=size[unit], chosen=change[0], drawn=change[1:])
        )
    tables = [c.table(text=c.name, unit=c.unit, tokens=c.tokens.astype(int)) for c in changes]
    drawn_mass, own = np.mean([overall[draw].sum() for draw in draws]), overall[chosen].sum()
    return Ablation(
        layer=layer.name,
        experts={"all": tuple(sorted(chosen.tolist()))},
        n_draws=choice.draws,
        mass_ratio=float(drawn_mass / own) if own else float("nan"),
        unit=" or ".join(sorted({one.kind for one in units})),
        rows=rows_of_texts(changes, choice.domain),
        units=pd.concat(tables, ignore_index=True),
    )


def text_mass(
    model: Transformer, layer: Inspected, units: Sequence[Units], *, halved: bool
) -> np.ndarray:
    """(n_texts, N): of gates, of all tokens or of those whose target's unit has an even number."""
    mass = torch.zeros(len(units), layer.n_experts, dtype=torch.float64)
    device, row, at = find_device(model), 0, np.empty(0, np.int64)

    def hear(layer: Inspected, x: Tensor, tokens: Tokens | None) -> None:
        slots = counted(layer.layer.slots(x, tokens), Bounds())
        experts, gates = slots.experts.cpu()[at], slots.gates.cpu().double()[at]
        mass[row].index_add_(0, experts.ravel(), gates.ravel())

    exact = torch.autocast(device.type, enabled=False)
    with torch.no_grad(), exact, listening([layer], hear):
        for row, one in enumerate(units):  # noqa: B007  # hear() reads it
            for i, batch in enumerate(one.windows):
                unit = one.of(one.windows.places(i).ravel())
                at = np.flatnonzero(unit % 2 == 0) if halved else np.arange(len(unit))
                model(batch.inputs.to(device))
    return mass.numpy()


def add_losses(
    model: Transformer, units: Units, total: np.ndarray, bar: "tqdm[None]"
) -> np.ndarray:
    """Adds the nats of each unit's targets to total (n,), and returns how many targets (n,) are."""
    size = np.zeros(len(total))
    windows = units.windows

    def add(index: int, targets: Tensor, losses: Tensor) -> None:
        scored = (targets != IGNORED).numpy()
        unit = units.of(windows.places(index)[scored])
        own = losses.double().cpu().numpy()[scored]
        total[:] += np.bincount(unit, own, minlength=len(total))
        size[:] += np.bincount(unit, minlength=len(total))
        bar.update()

    no_bytes = np.zeros(model.config.vocab_size)
    evaluate(model, windows, no_bytes, find_device(model), add)
    return size
