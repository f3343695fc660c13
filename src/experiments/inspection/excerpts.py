"""Excerpts of texts, token by token: each one's experts, and their parts in the next logit."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from experiments.data.vocabulary import Vocabulary
from experiments.inspection.contributions import contributions
from experiments.inspection.documents import ends_of
from experiments.inspection.interface import Inspected
from experiments.inspection.texts import Text
from experiments.models.transformer import Transformer

LENGTH = 48  # tokens of an excerpt
N_PARTS = 16  # experts of a token that are named


def excerpts(
    model: Transformer, layers: Sequence[Inspected], texts: Sequence[Text], vocabulary: Vocabulary
) -> dict[str, pd.DataFrame]:
    """Two tables of a document's first LENGTH tokens of each text, the document in its middle.

    excerpts: a line a layer, text and token, with the logit of the next token and the layer's part
    in it. That is the sum of `beside` (of no expert), `others` (of experts that are not named) and
    of the parts in the table `parts`, a line for each of the N_PARTS experts of the largest. The
    first token is the end of another document; the last one's next is the likeliest.
    """
    tokenizer = vocabulary.tokenizer()
    lines, parts = [], []
    for text in texts:
        ids = [vocabulary.end_of_text, *_excerpt(text, vocabulary.end_of_text)]
        ids = ids[: model.config.seq_len]
        shown = [str(tokenizer.decode([i], skip_special_tokens=False)) for i in ids]
        for found in contributions(model, list(layers), torch.tensor(ids)):
            for t, token in enumerate(shown):
                at = found.layer_name, text.name, t
                experts = found.slots.experts[t].cpu().numpy()
                own, place = np.unique(experts, return_inverse=True)
                part = np.bincount(place, weights=found.of_slots[t].cpu().numpy())
                largest = np.argsort(-np.abs(part), kind="stable")
                others = float(part[largest[N_PARTS:]].sum())
                target = int(found.targets[t])
                following = str(tokenizer.decode([target], skip_special_tokens=False))
                numbers = (float(values[t]) for values in (found.logits, found.layer, found.beside))
                lines.append((*at, token, following, *numbers, others))
                parts += [(*at, int(own[i]), float(part[i])) for i in largest[:N_PARTS]]
    columns = ["layer", "text", "position"]
    return {
        "excerpts": pd.DataFrame(
            lines, columns=[*columns, "token", "next", "logit", "part", "beside", "others"]
        ),
        "parts": pd.DataFrame(parts, columns=[*columns, "expert", "part"]),
    }


def _excerpt(text: Text, end_of_text: int) -> list[int]:
    ends = ends_of(text.tokens, end_of_text)
    # a document that begins within the text, if there are several
    start = int(ends[(len(ends) - 1) // 2]) + 1 if len(ends) > 1 else 0
    own = np.asarray(text.tokens[start : min(start + LENGTH, len(text.tokens))]).tolist()
    return own[: own.index(end_of_text)] if end_of_text in own else own
