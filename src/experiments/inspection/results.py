"""The files of an inspection: card.json, and tables of experts, contexts and tokens as CSV."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tokenizers import Tokenizer

from experiments.inspection.cards import LayerCard
from experiments.inspection.statistics import LayerStatistics
from experiments.inspection.texts import Text
from experiments.system.csv_text import to_csv
from experiments.system.disk import make_folder, write_text_atomically
from experiments.system.json_files import read_json

CARD = "card.json"
N_TOKENS = 10  # ids of each expert in tokens.csv
N_SHOWN = 1000  # experts of a layer in contexts.csv and tokens.csv: those of the largest mass
_BEFORE, _AFTER = 24, 8  # tokens of a context


def write_results(
    folder: Path,
    cards: Sequence[LayerCard],
    found: Mapping[str, LayerStatistics],
    texts: Sequence[Text],
    tokenizer: Tokenizer,
    identity: Mapping[str, Any],
) -> None:
    """The tables, and then the card, which says that all are there. Experts that no token read have
    no line, and those beyond N_SHOWN no text.
    """
    make_folder(folder)
    tables = {
        "experts.csv": pd.concat([_experts(n, s, texts) for n, s in found.items()]),
        "contexts.csv": pd.concat([_contexts(n, s, texts, tokenizer) for n, s in found.items()]),
        "tokens.csv": pd.concat([_tokens(n, s, tokenizer) for n, s in found.items()]),
    }
    for name, table in tables.items():
        write_text_atomically(folder / name, to_csv(table))
    content = {**identity, "layers": [asdict(card) for card in cards]}
    write_text_atomically(folder / CARD, json.dumps(content, indent=1) + "\n")


def read_cards(folder: Path, identity: Mapping[str, Any]) -> list[LayerCard] | None:
    """The cards that were written there; None if none were.

    Raises ValueError if they are of another run, of other texts or settings.
    """
    path = folder / CARD
    if not path.exists():
        return None
    try:
        content = read_json(path)
        cards = [LayerCard(**card) for card in content.pop("layers")]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is no card ({error}); delete {folder}") from None
    if content != json.loads(json.dumps(identity)):
        differ = [key for key in identity if content.get(key) != identity[key]]
        raise ValueError(
            f"{folder} has the results of another inspection (other {', '.join(differ)}); name "
            "another folder by out=..., or delete it"
        )
    return cards


def _experts(name: str, found: LayerStatistics, texts: Sequence[Text]) -> pd.DataFrame:
    """A line an expert: tokens and slots that read it, gates' mass, squares; mass by text."""
    expert = np.flatnonzero(found.n_slots)
    mass = found.mass[:, expert]
    columns = {
        "layer": name,
        "expert": expert,
        "n_tokens": found.n_tokens[expert],
        "n_slots": found.n_slots[expert],
        "mass": mass.sum(0),
        "squares": found.squares[expert],
    }
    by_text = {f"mass.{text.name}": own for text, own in zip(texts, mass, strict=True)}
    return pd.DataFrame({**columns, **by_text})


def _contexts(
    name: str, found: LayerStatistics, texts: Sequence[Text], tokenizer: Tokenizer
) -> pd.DataFrame:
    """A line a context: an expert's largest gates, and the text around each."""
    shown = _shown(found)
    row, rank = np.nonzero(found.context_places[shown] >= 0)
    expert = shown[row]
    place = found.context_places[expert, rank]
    ends = np.cumsum([len(text.tokens) for text in texts])
    number = np.searchsorted(ends, place, side="right")
    offset = place - np.concatenate([[0], ends])[number]
    around = [_around(texts[n], int(at), tokenizer) for n, at in zip(number, offset, strict=True)]
    return pd.DataFrame(
        {
            "layer": name,
            "expert": expert,
            "rank": rank + 1,
            "gate": found.context_gates[expert, rank],
            "text": [texts[n].name for n in number],
            "position": offset,
            "before": [before for before, _, _ in around],
            "token": [token for _, token, _ in around],
            "after": [after for _, _, after in around],
        }
    )


def _shown(found: LayerStatistics) -> np.ndarray:
    """The N_SHOWN experts of the largest mass that were read, ascending."""
    mass = found.mass.sum(0)
    largest = np.argsort(-mass, kind="stable")[:N_SHOWN]
    return np.sort(largest[found.n_slots[largest] > 0])


def _around(text: Text, at: int, tokenizer: Tokenizer) -> tuple[str, str, str]:
    start, end = max(0, at - _BEFORE), min(len(text.tokens), at + 1 + _AFTER)
    parts = (text.tokens[start:at], text.tokens[at : at + 1], text.tokens[at + 1 : end])
    before, token, after = (_decoded(tokenizer, part) for part in parts)
    return before, token, after


def _tokens(name: str, found: LayerStatistics, tokenizer: Tokenizer) -> pd.DataFrame:
    """A line an expert and a token id: the ids that most often read it."""
    shown = set(_shown(found).tolist())
    rows = [row for row in found.pairs.most_common(N_TOKENS) if row[0] in shown]
    return pd.DataFrame(
        {
            "layer": name,
            "expert": [expert for expert, _, _ in rows],
            "id": [token for _, token, _ in rows],
            "token": [_decoded(tokenizer, np.array([token])) for _, token, _ in rows],
            "n_tokens": [n for _, _, n in rows],
        }
    )


def _decoded(tokenizer: Tokenizer, ids: np.ndarray) -> str:
    return str(tokenizer.decode(ids.tolist(), skip_special_tokens=False))
