"""Values that experts wrote in their contexts, for layers where that depends on the token."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from experiments.inspection.interface import Inspected, find_device, listening
from experiments.inspection.statistics import LayerStatistics
from experiments.inspection.texts import Text
from experiments.models.ffn._slots import Slots
from experiments.models.tokens import Tokens
from experiments.models.transformer import Transformer


@torch.no_grad()
def written_in_contexts(
    model: Transformer,
    layer: Inspected,
    found: LayerStatistics,
    texts: Sequence[Text],
    experts: Sequence[int],
) -> Tensor:
    """(E, d_model) float64, the mean over the places of an expert's largest gates. Their windows
    are read again; the model is in evaluation mode.
    """
    device, seq_len = find_device(model), model.config.seq_len
    ends = np.cumsum([len(text.tokens) for text in texts])
    windows: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for row, expert in enumerate(experts):
        for place in found.context_places[expert]:
            if place >= 0:
                number = int(np.searchsorted(ends, place, side="right"))
                offset = int(place) - int(ends[number - 1] if number else 0)
                windows[number, offset // seq_len].append((row, offset % seq_len))
    total = torch.zeros(len(experts), model.config.d_model, dtype=torch.float64, device=device)
    times = torch.zeros(len(experts), dtype=torch.float64, device=device)
    now: list[tuple[int, int]] = []

    def hear(layer: Inspected, x: Tensor, tokens: Tokens | None) -> None:
        rows, at = (torch.tensor(own, device=device) for own in zip(*now, strict=True))
        slots = layer.layer.slots(x, tokens)
        wanted = torch.tensor(list(experts), device=device)[rows].unsqueeze(1)
        own = slots.weights[at] * (slots.experts[at] == wanted)
        few = Slots(experts=slots.experts[at], gates=slots.gates[at], weights=own)
        total.index_add_(0, rows, layer.layer.written(x[at], few).sum(1).double())
        times.index_add_(0, rows, torch.ones_like(rows, dtype=torch.float64))

    exact = torch.autocast(device.type, enabled=False)
    with exact, listening([layer], hear):
        for (number, window), now in windows.items():  # noqa: B007  # hear() reads it
            start, tokens = window * seq_len, texts[number].tokens
            ids = np.asarray(tokens[start : min(start + seq_len, len(tokens))], np.int64)
            model(torch.from_numpy(ids).to(device).unsqueeze(0))
    return total / times.clamp_min(1).unsqueeze(1)
