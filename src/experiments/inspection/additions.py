"""Additions to an inspection that is done: texts that were typed, and strings that were found.

Its statistics stay. A text or a string that is added again takes its own place.
"""

from collections.abc import Mapping
from dataclasses import replace

import pandas as pd

from experiments.inspection.results import Inspection

TYPED = "typed"  # 'typed 1': the name of a text


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


def with_strings(found: Inspection, table: pd.DataFrame) -> Inspection:
    """With lines of the table `strings`."""
    kept = found.tables["strings"]
    kept = kept[~kept["string"].isin(table["string"])]
    both = pd.concat([kept, table], ignore_index=True) if len(kept) else table
    return replace(found, tables={**found.tables, "strings": both})
