"""Additions to an inspection: texts that were typed, strings that were looked for, the run before.

The statistics of the run's own texts stay. A text or a string that is added again takes its own
place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from experiments.data.vocabulary import Vocabulary
from experiments.inspection.before import Before, open_before, with_before
from experiments.inspection.contributions import Contributions, contributions
from experiments.inspection.excerpts import explained
from experiments.inspection.interface import Inspected
from experiments.inspection.opened import Opened
from experiments.inspection.results import TRAINING, Inspection
from experiments.inspection.strings import Occurrences, fired_on, occurrences
from experiments.models.transformer import Transformer

TYPED = "typed"  # 'typed 1': the name of a text


@dataclass(frozen=True, kw_only=True, eq=False)
class Wanted:
    """Additions that are to be made. sought: by string, where it occurs. training: lines of that
    table.
    """

    typed: Sequence[str]
    sought: Mapping[str, Sequence[Occurrences]]
    before: Before | None
    training: pd.DataFrame | None


def wanted(
    run: Opened, lost: Inspection | None, find: str | None, before: Path | None, places: list[str]
) -> Wanted:
    """Collect what is asked for now, and what an inspection that is made again had been added.

    places: overrides of PLACES. Raises ValueError as occurrences and open_before do, so before
    anything is read, and if the run before is not there any more.
    """
    strings = [] if lost is None else [one for one in lost.strings if one != find]
    strings += [] if find is None else [find]
    if before is None and lost is not None and lost.before:
        before = Path(lost.before)
    return Wanted(
        typed=[] if lost is None else list(lost.typed.values()),
        sought={string: occurrences(string, run.reading, run.tokenizer) for string in strings},
        before=None if before is None else open_before(before, run, places),
        training=None if lost is None else lost.tables.get(TRAINING),
    )


def added(found: Inspection, run: Opened, more: Wanted, folder: Path) -> Inspection:
    """Add all of it to an inspection; what it has already takes its own place."""
    for text in more.typed:
        ids, parts = typed_parts(run.model, run.layers, text, run.run.vocabulary)
        found = with_typed(found, text, explained("", ids, parts, run.tokenizer))
    overall: dict[str, np.ndarray] = {}  # shares of the tokens that read an expert
    experts = found.tables["experts"]
    for card in found.cards if more.sought else ():
        own = experts[experts["layer"] == card.name]
        overall[card.name] = np.zeros(card.n_experts)
        overall[card.name][own["expert"]] = own["n_tokens"] / card.n_tokens
    for string, sought in more.sought.items():
        found = with_strings(found, string, fired_on(run, sought, overall))
    if more.before is not None:
        found = with_before(found, run, more.before, folder)
    if more.training is not None:
        found = replace(found, tables={**found.tables, TRAINING: more.training})
    return found


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
