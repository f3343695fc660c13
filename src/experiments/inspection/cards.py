"""Card of a layer: how its experts were used over texts, in a few numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from experiments.inspection.interface import Inspected
from experiments.inspection.statistics import LayerStatistics
from experiments.models.usage import ExpertUsage

TOP = 0.01  # the share of experts whose mass is told


@dataclass(frozen=True, kw_only=True)
class LayerCard:
    """n_experts: N. n_tokens that were read, with n_slots each. usage and unevenness (nats) as runs
    log them, of these tokens. top_share: of all gates' mass, that of the 1 % of experts (at least
    one) that have most. n_never: experts that no token read. n_silent: that were read, with a
    weight of 0 each time. n_distinct: experts that a token reads, on average; overlap: the share of
    its slots whose expert is in another of its slots already. routed: false where every token has
    all experts (dense): then n_slots are of the largest gates alone, and so is all else.
    pairs_error: how far counts by token id may be below the truth (PairCounts).
    """

    name: str
    kind: str
    routed: bool
    n_experts: int
    n_tokens: int
    n_slots: int
    usage: float
    unevenness: float
    top_share: float
    n_never: int
    n_silent: int
    n_distinct: float
    overlap: float
    pairs_error: int


def layer_card(layer: Inspected, statistics: LayerStatistics) -> LayerCard:
    """Card of what was added to the statistics; at least one token."""
    n_tokens, n_slots, n_distinct = (int(n) for n in statistics.total)
    total = ExpertUsage(statistics.n_experts)
    for usage in statistics.usages:
        total.weight += usage.weight
    summary = total.summary()
    never = statistics.n_slots == 0
    return LayerCard(
        name=layer.name,
        kind=layer.kind,
        routed=layer.module.n_experts > 0,
        n_experts=statistics.n_experts,
        n_tokens=n_tokens,
        n_slots=n_slots // n_tokens,
        usage=summary.usage,
        unevenness=summary.unevenness,
        top_share=top_share(total.weight.numpy()),
        n_never=int(never.sum()),
        n_silent=int((~never & (statistics.squares == 0)).sum()),
        n_distinct=n_distinct / n_tokens,
        overlap=1 - n_distinct / n_slots,
        pairs_error=statistics.pairs.error,
    )


def top_share(mass: np.ndarray) -> float:
    """Share of the mass (N,) that the largest hundredth of the N have, at least one of them."""
    if not mass.any():
        return 0.0
    n = max(1, round(TOP * len(mass)))
    largest = torch.from_numpy(mass).topk(n).values
    return float(largest.sum() / mass.sum())


def cards_table(cards: Sequence[LayerCard]) -> list[tuple[str, ...]]:
    """Rows of text, the head first."""
    head = (
        "layer",
        "kind",
        "N",
        "slots",
        "distinct",
        "usage",
        "unevenness",
        "top 1 %",
        "never",
        "silent",
    )
    return [
        head,
        *(
            (
                card.name,
                card.kind + ("" if card.routed else " *"),
                f"{card.n_experts:,}",
                str(card.n_slots),
                f"{card.n_distinct:.1f}",
                f"{card.usage:.1%}",
                f"{card.unevenness:.3f}",
                f"{card.top_share:.1%}",
                f"{card.n_never:,}",
                f"{card.n_silent:,}",
            )
            for card in cards
        ),
    ]
