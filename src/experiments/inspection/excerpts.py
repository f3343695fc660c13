"""Texts token by token: each one's experts, and their parts in the logit of the next token.

excerpts: a line a layer, text and token, with the logit of the next token and the layer's part in
it. That is the sum of `beside` (of no expert), `others` (of experts that are not named) and of the
parts in the table `parts`, a line for each of the N_PARTS experts of the largest, with the gates by
which the token reads it. The first token is the end of another document; the last one's next is the
likeliest.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from tokenizers import Tokenizer

from experiments.inspection.contributions import Contributions, contributions
from experiments.inspection.documents import find_ends
from experiments.inspection.opened import Opened

LENGTH = 48  # tokens of an excerpt
N_PARTS = 16  # experts of a token that are named
_COLUMNS = ("layer", "text", "position")


def excerpts(run: Opened) -> dict[str, pd.DataFrame]:
    """Both tables, of a document's first LENGTH tokens of each text, the document in its middle."""
    tables: list[dict[str, pd.DataFrame]] = []
    end = run.reading.end_of_text
    for text in run.texts:
        ends = find_ends(text.tokens, end)
        # a document that begins within the text, if there are several
        start = int(ends[(len(ends) - 1) // 2]) + 1 if len(ends) > 1 else 0
        own = np.asarray(text.tokens[start : min(start + LENGTH, len(text.tokens))]).tolist()
        ids = [end, *(own[: own.index(end)] if end in own else own)][: run.model.config.seq_len]
        found = contributions(run.model, list(run.layers), torch.tensor(ids))
        tables.append(explained(text.name, ids, found, run.tokenizer))
    return {name: pd.concat([own[name] for own in tables], ignore_index=True) for name in tables[0]}


def explained(
    name: str, ids: Sequence[int], found: Sequence[Contributions], tokenizer: Tokenizer
) -> dict[str, pd.DataFrame]:
    """Both tables, of a text of these ids. name: of the text."""

    def strings(ids: Sequence[int]) -> list[str]:
        return [str(tokenizer.decode([token], skip_special_tokens=False)) for token in ids]

    shown = strings(ids)
    lines, parts = [], []
    for own in found:
        following = strings(own.targets.tolist())
        for t, token in enumerate(shown):
            at = own.layer_name, name, t
            experts, place = np.unique(own.slots.experts[t].cpu().numpy(), return_inverse=True)
            part = np.bincount(place, weights=own.of_slots[t].cpu().numpy())
            gate = np.bincount(place, weights=own.slots.gates[t].double().cpu().numpy())
            largest = np.argsort(-np.abs(part), kind="stable")
            others = float(part[largest[N_PARTS:]].sum())
            numbers = (float(values[t]) for values in (own.logits, own.layer, own.beside))
            lines.append((*at, token, following[t], *numbers, others))
            parts += [
                (*at, int(experts[i]), float(gate[i]), float(part[i])) for i in largest[:N_PARTS]
            ]
    numbers_of = ("logit", "part", "beside", "others")
    return {
        "excerpts": pd.DataFrame(lines, columns=[*_COLUMNS, "token", "next", *numbers_of]),
        "parts": pd.DataFrame(parts, columns=[*_COLUMNS, "expert", "gate", "part"]),
    }
