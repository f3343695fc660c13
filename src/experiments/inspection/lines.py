"""Lines of text that a terminal shows of an inspection."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from tokenizers import Tokenizer

from experiments.inspection.cards import LayerCard, cards_table
from experiments.inspection.contributions import Contributions
from experiments.system.text_table import aligned

_N_STRINGS = 3  # experts of a token of a string


def lines_of_cards(cards: Sequence[LayerCard]) -> list[str]:
    """A line a layer."""
    lines = aligned(cards_table(cards), n_left=2)
    if not all(card.routed for card in cards):
        lines.append("* no router: of each token, the hidden units that write most")
    return lines


def lines_of_text(
    tokenizer: Tokenizer, ids: Sequence[int], found: Contributions, top: int
) -> list[str]:
    """A line a token of one layer, with the `top` experts of the largest parts."""

    def shown(token: int) -> str:
        return repr(tokenizer.decode([token], skip_special_tokens=False))

    rows = [
        ("token", "next", "logit", "layer", "beside", f"the {top} experts of the largest parts")
    ]
    for t, token in enumerate(ids):
        parts: dict[int, float] = {}
        for expert, part in zip(found.slots.experts[t].tolist(), found.of_slots[t].tolist()):
            parts[expert] = parts.get(expert, 0.0) + part
        largest = sorted(parts, key=lambda expert: -abs(parts[expert]))[:top]
        rows.append(
            (
                shown(token),
                shown(int(found.targets[t])),
                f"{float(found.logits[t]):.3f}",
                f"{float(found.layer[t]):+.3f}",
                f"{float(found.beside[t]):+.3f}",
                "  ".join(f"{expert}: {parts[expert]:+.3f}" for expert in largest),
            )
        )
    return [found.layer_name, *aligned(rows, n_left=2)]


def lines_of_strings(table: pd.DataFrame, string: str) -> list[str]:
    """Of each layer, and each way that the string is written in tokens, the experts that fire on it
    most beyond what they do anywhere.
    """
    lines: list[str] = []
    own = table[table["string"].isin([string, f" {string}"])]
    for (layer, way), rows in own.groupby(["layer", "string"], sort=False):
        first = rows.iloc[0]
        lines += [
            "",
            f"{layer}: {way!r} {first['n_read']:,} times in {first['n_documents']:,} documents",
        ]
        cells = [("token", "expert", "share of these", "elsewhere", "all tokens")]
        for _, few in rows.groupby("position"):
            cells += [
                (
                    repr(row["token"]),
                    f"{row['expert']}",
                    _with_interval(row["share"], row["low"], row["high"]),
                    f"{row['elsewhere']:.3f}",
                    f"{row['overall']:.3f}",
                )
                for _, row in few.head(_N_STRINGS).iterrows()
            ]
        lines += aligned(cells)
    return lines


def lines_of_before(about: Mapping[str, Any]) -> list[str]:
    """A line a layer that the run before had too."""
    heads = ("before", "N before", "mass of new ones", "new ones used", "moved", "of the old ones")
    rows: list[tuple[str, ...]] = [heads]
    for name, own in about.items():
        if (then := own.get("before")) is not None:
            shares = (then[key] for key in ("share_new", "used_new", "moved", "moved_old"))
            rows.append((name, f"{then['n_experts']:,}", *(f"{share:.1%}" for share in shares)))
    return ["", *aligned(rows)]


def lines_of_training(table: pd.DataFrame) -> list[str]:
    """A line a layer and checkpoint that the run kept; none, no lines."""
    if not len(table):
        return []
    heads = ("over training", "step", "tokens", "usage", "unevenness", "top 1 %", "never", "silent")
    rows: list[tuple[str, ...]] = [heads]
    for line in table.itertuples(index=False):
        rows.append(
            (
                str(line.layer), f"{line.step:,}", f"{line.n_trained:,}", f"{line.usage:.1%}",
                f"{line.unevenness:.3f}", f"{line.top_share:.1%}", f"{line.n_never:,}",
                f"{line.n_silent:,}",
            )
        )  # fmt: skip
    return ["", *aligned(rows)]


def _with_interval(share: float, low: float, high: float) -> str:
    return f"{share:.3f}" + (f" [{low:.3f}, {high:.3f}]" if low == low else "")
