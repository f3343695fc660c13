"""Additions to an inspection that is done: texts that were typed, and strings that were found.

Its statistics stay. A text or a string that is added again takes its own place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from experiments.data.vocabulary import Vocabulary
from experiments.inspection.before import with_before
from experiments.inspection.contributions import Contributions, contributions
from experiments.inspection.excerpts import explained
from experiments.inspection.interface import Inspected
from experiments.inspection.opened import Opened
from experiments.inspection.results import TRAINING, Inspection
from experiments.inspection.strings import Occurrences, fired_on, occurrences
from experiments.inspection.tables import shares_of_tokens
from experiments.models.transformer import Transformer

TYPED = "typed"  # 'typed 1': the name of a text


def typed_parts(
    model: Transformer, layers: Sequence[Inspected], text: str, vocabulary: Vocabulary
) -> tuple[list[int], list[Contributions]]:
    """A text's ids, with the end of another document before them, and each layer's parts in the
    logits of the next tokens. Raises ValueError for a text longer than the model's window.
    """
    ids = [vocabulary.end_of_text, *vocabulary.tokenizer().encode(text).ids]
    seq_len = model.config.seq_len
    if len(ids) > seq_len:
        raise ValueError(
            f"the text has {len(ids)} tokens, its beginning included, more than the {seq_len} that "
            "the model reads; shorten it"
        )
    return ids, contributions(model, list(layers), torch.tensor(ids))


def with_typed(found: Inspection, text: str, tables: Mapping[str, pd.DataFrame]) -> Inspection:
    """With a text's lines of excerpts and parts, of whatever name. Layers that the inspection
    does not have are left out.
    """
    name = next((name for name, own in found.typed.items() if own == text), None)
    if name is None:
        taken = {one["name"] for one in found.identity["texts"]} | set(found.typed)
        name = next(n for i in range(1, len(taken) + 2) if (n := f"{TYPED} {i}") not in taken)
    layers = [card.name for card in found.cards]
    joined = dict(found.tables)
    for key, table in tables.items():
        kept = found.tables[key]
        own = table[table["layer"].isin(layers)].assign(text=name)
        joined[key] = pd.concat([kept[kept["text"] != name], own], ignore_index=True)
    return replace(found, tables=joined, typed={**found.typed, name: text})


def with_strings(found: Inspection, string: str, table: pd.DataFrame) -> Inspection:
    """With a string that was looked for: lines of the table `strings`."""
    kept = found.tables["strings"]
    kept = kept[~kept["string"].isin(table["string"])]
    both = pd.concat([kept, table], ignore_index=True) if len(kept) else table
    strings = (*(own for own in found.strings if own != string), string)
    return replace(found, tables={**found.tables, "strings": both}, strings=strings)


def looked_for(
    found: Inspection, run: Opened, string: str, sought: Sequence[Occurrences]
) -> Inspection:
    """With the experts that fire on a string where it occurs."""
    overall, tokenizer = shares_of_tokens(found), run.vocabulary.tokenizer()
    table = fired_on(run.model, run.layers, run.reading, sought, overall, tokenizer)
    return with_strings(found, string, table)


def added_again(
    found: Inspection, there: Inspection, run: Opened, overrides: Sequence[str], folder: Path
) -> Inspection:
    """An inspection that was made again, with what was added to the one that was there: texts and
    strings, the run before, and the checkpoints of its training, if their table is as it was.

    overrides: of PLACES. Raises ValueError if the run before is not there any more.
    """
    tokenizer = run.vocabulary.tokenizer()
    for text in there.typed.values():
        ids, parts = typed_parts(run.model, run.layers, text, run.vocabulary)
        found = with_typed(found, text, explained("", ids, parts, tokenizer))
    for string in there.strings:
        found = looked_for(found, run, string, occurrences(string, run.reading, tokenizer))
    if there.before:
        found = with_before(found, run, Path(there.before), overrides, folder)
    if TRAINING in there.tables:
        found = replace(found, tables={**found.tables, TRAINING: there.tables[TRAINING]})
    return found
