"""The findings of an inspection: cards and tables, in a folder as card.json and CSV."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.inspection.cards import LayerCard
from experiments.system.csv_text import to_csv, unguarded
from experiments.system.disk import OTHER_FOLDER, make_folder, write_text_atomically
from experiments.system.json_files import read_json
from experiments.system.regular_files import MOST, regular

CARD = "card.json"
PAGE = "inspect.html"
TRAINING = "training"  # a table: cards at the checkpoints that the run kept
FORMAT = 5  # of the folder; another's results are not gone on with
TEXTS = (  # columns
    *("layer", "group", "text", "before", "token", "after", "next", "side", "by", "string"),
    *("class", "of"),
)
TABLES = (
    *("experts", "chosen", "contexts", "tokens", "bigrams", "lifts", "classes", "map"),
    *("promoted", "nearest", "excerpts", "parts", "strings", "before", "before_map"),
    TRAINING,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Inspection:
    """The numbers of a folder, which its page draws.

    identity: the run, texts and settings, in plain values. about: by layer, the level and counts of
    its tests of lifts, and the cells of its map. tables: by name, as docs/inspect.md lists them.
    typed: texts that were typed, by the names that they have in the tables.
    """

    identity: Mapping[str, Any]
    cards: tuple[LayerCard, ...]
    about: Mapping[str, Any]
    tables: Mapping[str, pd.DataFrame]
    typed: Mapping[str, str] = field(default_factory=dict)


def write_results(folder: Path, found: Inspection, page: str) -> None:
    """The tables and the page, and then the card, which says that all are there."""
    make_folder(folder)
    for name, table in found.tables.items():
        write_text_atomically(folder / f"{name}.csv", to_csv(table), then=OTHER_FOLDER)
    write_text_atomically(folder / PAGE, page, then=OTHER_FOLDER)
    content = {
        "identity": found.identity,
        "layers": [asdict(card) for card in found.cards],
        "about": found.about,
        "typed": found.typed,
    }
    write_text_atomically(folder / CARD, json.dumps(content, indent=1) + "\n", then=OTHER_FOLDER)


def read_inspection(folder: Path) -> Inspection:
    """What was written there. Raises ValueError where nothing is, or is whole."""
    if not (folder / CARD).exists():
        raise ValueError(f"{folder} has no {CARD}: python -m experiments.inspect RUN writes one")
    identity, cards, about, typed = _card(folder)
    return Inspection(
        identity=identity,
        cards=tuple(cards),
        about=about,
        typed=typed,
        tables={name: _table(folder / f"{name}.csv") for name in TABLES},
    )


def read_cards(folder: Path, identity: Mapping[str, Any]) -> list[LayerCard] | None:
    """The cards that were written there; None if none were.

    Raises ValueError if they are of another run, of other texts or settings.
    """
    if not (folder / CARD).exists():
        return None
    theirs, cards, *_ = _card(folder)
    if theirs != json.loads(json.dumps(identity)):
        differ = [key for key in identity if theirs.get(key) != identity[key]]
        raise ValueError(
            f"{folder} has the results of another inspection (other {', '.join(differ)}); name "
            "another folder by out=..., or delete it"
        )
    return cards


def _card(
    folder: Path,
) -> tuple[dict[str, Any], list[LayerCard], dict[str, Any], dict[str, str]]:
    path = folder / CARD
    try:
        content = read_json(path)
        cards = [LayerCard(**card) for card in content["layers"]]
        theirs = dict(content["identity"])
        if theirs["format"] != FORMAT:
            raise ValueError(f"it has format {theirs['format']}, and this version reads {FORMAT}")
        return theirs, cards, dict(content["about"]), dict(content["typed"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is no card ({error}); delete {folder}") from None


def _table(path: Path) -> pd.DataFrame:
    """As it was written, to the bit. Pandas' own reader of numbers differs from release to release,
    and Python's does not.
    """
    try:
        table = pd.read_csv(regular(path, MOST), dtype=str, keep_default_na=False)
        columns = {str(name): table[name].tolist() for name in table}
        return pd.DataFrame(
            {
                name: list(map(unguarded, own)) if name in TEXTS else _numbers(own)
                for name, own in columns.items()
            }
        )
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} can't be read ({error}); delete {path.parent}") from None


def _numbers(texts: list[str]) -> list[int] | list[float]:
    if all(map(str.isdecimal, texts)):
        return list(map(int, texts))
    return [float(text or "nan") for text in texts]
