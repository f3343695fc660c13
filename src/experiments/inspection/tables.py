"""Tables of an inspection: experts, their contexts, tokens and lifts, and the map of mass."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from tokenizers import Tokenizer

from experiments.inspection.cards import layer_card
from experiments.inspection.chosen import chosen_experts
from experiments.inspection.classes import CLASSES
from experiments.inspection.documents import DocumentMoments
from experiments.inspection.excerpts import excerpts
from experiments.inspection.lifts import Lifts, lifts
from experiments.inspection.maps import MassMap, mass_map
from experiments.inspection.nearest import nearest
from experiments.inspection.opened import Opened
from experiments.inspection.promoted import promoted
from experiments.inspection.results import TABLES, TRAINING, Inspection
from experiments.inspection.statistics import LayerStatistics
from experiments.inspection.texts import Text
from experiments.inspection.written import written_in_contexts

N_TOKENS = 10  # ids of each expert in `tokens`
N_SHOWN = 1000  # experts of a layer with contexts, tokens and lifts: those of the largest mass
_BEFORE, _AFTER = 24, 8  # tokens of a context


def make_inspection(run: Opened, found: Mapping[str, LayerStatistics]) -> Inspection:
    """All tables. Experts that no token read have no line; contexts, tokens and lifts are of the
    N_SHOWN of the largest mass and of those that are chosen for the page.
    """
    parts: dict[str, list[pd.DataFrame]] = {}
    about: dict[str, Any] = {}
    texts, tokenizer = run.texts, run.tokenizer
    names = [text.name for text in texts]
    for layer in run.layers:
        own = found[layer.name]
        moments, class_moments = own.documents.moments(), own.classes.moments()
        lifted, by_class = lifts(own.mass, moments), lifts(own.classes.mass, class_moments)
        cells, total = mass_map(own.mass, layer.layer.grid()), own.mass.sum(0)
        chosen = chosen_experts(total, lifted)
        experts = np.unique(chosen["expert"]).tolist()
        largest = np.argsort(-total, kind="stable")[:N_SHOWN]
        shown = np.union1d(largest[own.n_slots[largest] > 0], chosen["expert"])
        signs = np.where(own.weights[experts] < 0, -1, 1)
        in_contexts = partial(written_in_contexts, run.model, layer, own, texts)
        for name, table in (
            ("experts", experts_table(own, moments, names)),
            ("chosen", chosen),
            ("contexts", _contexts(own, shown, texts, tokenizer)),
            ("tokens", _tokens(own, shown, tokenizer)),
            ("bigrams", _bigrams(own, shown, tokenizer)),
            ("lifts", _lifts(lifted, moments, shown, "text", names)),
            ("classes", _lifts(by_class, class_moments, shown, "class", CLASSES)),
            ("map", map_table(cells, names)),
            ("promoted", promoted(run.model, layer, experts, signs, tokenizer, in_contexts)),
            ("nearest", nearest(layer, experts)),
        ):
            table.insert(0, "layer", layer.name)
            parts.setdefault(name, []).append(table)
        about[layer.name] = {
            **{
                name: {key: getattr(tests, key) for key in ("level", "n_tested", "n_significant")}
                for name, tests in (("lifts", lifted), ("classes", by_class))
            },
            "map": {
                "rows": cells.mass.shape[1],
                "columns": cells.mass.shape[2],
                "tall": cells.tall,
                "wide": cells.wide,
                "n_columns": cells.n_columns,
                "sub_keys": cells.sub_keys,
            },
        }
    whole = {  # one after another; without lines it has its columns
        name: pd.concat([own for own in each if len(own)] or each[:1], ignore_index=True)
        for name, each in parts.items()
    }
    return Inspection(
        identity=run.reading.identity,
        cards=tuple(layer_card(layer, found[layer.name]) for layer in run.layers),
        about=about,
        tables={
            **whole,
            **excerpts(run),
            "strings": pd.DataFrame(columns=["layer", *TABLES["strings"]]),
            "before": parts["experts"][0][:0],
            "before_map": parts["map"][0][:0],
            TRAINING: pd.DataFrame(columns=["layer", *TABLES[TRAINING]]),
        },
    )


def experts_table(
    found: LayerStatistics, moments: DocumentMoments, texts: Sequence[str]
) -> pd.DataFrame:
    """A line an expert: tokens, slots and documents that read it, gates' mass, weights and their
    squares; mass by text.
    """
    expert = np.flatnonzero(found.n_slots)
    mass = found.mass[:, expert]
    columns = {
        "expert": expert,
        "n_tokens": found.n_tokens[expert],
        "n_slots": found.n_slots[expert],
        "n_documents": moments.n_read[:, expert].sum(0),
        "mass": mass.sum(0),
        "weights": found.weights[expert],
        "squares": found.squares[expert],
    }
    by_text = {f"mass.{text}": own for text, own in zip(texts, mass, strict=True)}
    return pd.DataFrame({**columns, **by_text})


def _contexts(
    found: LayerStatistics, shown: np.ndarray, texts: Sequence[Text], tokenizer: Tokenizer
) -> pd.DataFrame:
    """A line a context: an expert's largest gates, and the text around each."""
    row, rank = np.nonzero(found.context_places[shown] >= 0)
    expert = shown[row]
    place = found.context_places[expert, rank]
    ends = np.cumsum([len(text.tokens) for text in texts])
    number = np.searchsorted(ends, place, side="right")
    offset = place - np.concatenate([[0], ends])[number]
    around = []
    for n, at in zip(number, offset.tolist(), strict=True):
        tokens = texts[n].tokens
        start, end = max(0, at - _BEFORE), min(len(tokens), at + 1 + _AFTER)
        parts = (tokens[start:at], tokens[at : at + 1], tokens[at + 1 : end])
        around.append([decoded(tokenizer, part) for part in parts])
    return pd.DataFrame(
        {
            "expert": expert,
            "rank": rank + 1,
            # the shortest number of each float32, which a CSV has too
            "gate": [float(str(gate)) for gate in found.context_gates[expert, rank]],
            "text": [texts[n].name for n in number],
            "position": offset,
            "before": [before for before, _, _ in around],
            "token": [token for _, token, _ in around],
            "after": [after for _, _, after in around],
        }
    )


def _tokens(found: LayerStatistics, shown: np.ndarray, tokenizer: Tokenizer) -> pd.DataFrame:
    """A line an expert and a token id: the ids that most often read it."""
    wanted = set(shown.tolist())
    rows = [row for row in found.pairs.most_common(N_TOKENS) if row[0] in wanted]
    return pd.DataFrame(
        {
            "expert": [expert for expert, _, _ in rows],
            "id": [token for _, token, _ in rows],
            "token": [decoded(tokenizer, np.array([token])) for _, token, _ in rows],
            "n_tokens": [n for _, _, n in rows],
        }
    )


def _bigrams(found: LayerStatistics, shown: np.ndarray, tokenizer: Tokenizer) -> pd.DataFrame:
    """A line an expert and two token ids: the second one read it, most often after the first."""
    wanted = set(shown.tolist())
    rows = [row for row in found.bigrams.most_common(N_TOKENS) if row[0] in wanted]
    both = [divmod(pair, found.vocab_size) for _, pair, _ in rows]
    return pd.DataFrame(
        {
            "expert": [expert for expert, _, _ in rows],
            "first_id": [first for first, _ in both],
            "id": [second for _, second in both],
            "string": [decoded(tokenizer, np.array(ids)) for ids in both],
            "n_tokens": [n for _, _, n in rows],
        }
    )


def _lifts(
    lifted: Lifts,
    moments: DocumentMoments,
    shown: np.ndarray,
    column: str,
    texts: Sequence[str],
) -> pd.DataFrame:
    """A line an expert and a text, or a class of tokens: the column's name says which."""
    values = {name: getattr(lifted, name)[:, shown] for name in ("lift", "low", "high", "p", "q")}
    return pd.DataFrame(
        {
            "expert": np.repeat(shown, len(texts)),
            column: list(texts) * len(shown),
            **{name: value.T.ravel() for name, value in values.items()},
            "n_documents": moments.n_read[:, shown].T.ravel(),
        }
    )


def map_table(cells: MassMap, texts: Sequence[str]) -> pd.DataFrame:
    """A line a text and a cell with any mass; rows and columns count from 0."""
    text, row, column = np.nonzero(cells.mass)
    return pd.DataFrame(
        {
            "text": np.array(texts)[text],
            "row": row,
            "column": column,
            "mass": cells.mass[text, row, column],
        }
    )


def decoded(tokenizer: Tokenizer, ids: np.ndarray) -> str:
    """Text of ids, those of special entries too."""
    return str(tokenizer.decode(ids.tolist(), skip_special_tokens=False))
