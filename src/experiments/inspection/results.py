"""Findings of an inspection: cards and tables, in a folder as card.json and CSV."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.inspection.cards import LayerCard
from experiments.system.csv_text import to_csv, unguarded
from experiments.system.json_files import read_json
from experiments.system.regular_files import MOST, regular
from experiments.system.several_files import NotWholeError, read_list, settle, write_together

CARD = "card.json"
PAGE = "inspect.html"
TRAINING = "training"  # a table: cards at the checkpoints that the run kept
FORMAT = 6  # of the folder; another's results are not gone on with
STATISTICS = "statistics.npz"  # all sums, of a pass that is done or is gone on with
TEXTS = (  # columns
    *("layer", "group", "text", "before", "token", "after", "next", "side", "by", "string"),
    *("class", "of"),
)
_WHOLE = (  # columns
    *("expert", "rank", "position", "id", "first_id", "row", "column", "other", "step"),
    *("n_tokens", "n_slots", "n_documents", "n_read", "n_trained"),
)
_EXPERTS = ("expert", "n_tokens", "n_slots", "n_documents", "mass", "weights", "squares")
_MAP = ("text", "row", "column", "mass")
_LIFTS = ("lift", "low", "high", "p", "q", "n_documents")
TABLES: dict[
    str, tuple[str, ...]
] = {  # and their columns after `layer`; experts has more, of each text
    "experts": _EXPERTS,
    "chosen": ("group", "rank", "expert"),
    "contexts": ("expert", "rank", "gate", "text", "position", "before", "token", "after"),
    "tokens": ("expert", "id", "token", "n_tokens"),
    "bigrams": ("expert", "first_id", "id", "string", "n_tokens"),
    "lifts": ("expert", "text", *_LIFTS),
    "classes": ("expert", "class", *_LIFTS),
    "map": _MAP,
    "promoted": ("expert", "side", "rank", "id", "token", "deviations", "of"),
    "nearest": ("expert", "by", "rank", "other", "cosine"),
    "excerpts": ("text", "position", "token", "next", "logit", "part", "beside", "others"),
    "parts": ("text", "position", "expert", "gate", "part"),
    "strings": (
        *("string", "position", "token", "expert", "n_read", "n_documents", "share", "low", "high"),
        *("elsewhere", "overall"),
    ),
    "before": _EXPERTS,
    "before_map": _MAP,
    TRAINING: (
        *("step", "n_trained", "usage", "unevenness", "top_share", "n_never", "n_silent"),
        "n_distinct",
    ),
}
_TYPED = ("excerpts", "parts")  # have lines of texts that were typed
_ABOUT = ("lifts", "classes", "map")  # keys of each layer's
_OF_CARD = ("identity", "layers", "about", "typed", "strings", "before")
_AGAIN = "python -m experiments.inspect RUN, with the same texts, makes it again"


@dataclass(frozen=True, kw_only=True, eq=False)
class Inspection:
    """Numbers of a folder, which its page draws.

    identity: the run, its weights, texts and settings, in plain values. about: by layer, the level
    and counts of its tests of lifts, and the cells of its map. tables: by name, as docs/inspect.md
    lists them. What was added: typed, texts by the names that they have in the tables; strings that
    were looked for; before, the folder of the run that this one started from.
    """

    identity: Mapping[str, Any]
    cards: tuple[LayerCard, ...]
    about: Mapping[str, Any]
    tables: Mapping[str, pd.DataFrame]
    typed: Mapping[str, str] = field(default_factory=dict)
    strings: tuple[str, ...] = ()
    before: str = ""


def write_results(folder: Path, found: Inspection, page: str) -> None:
    """Tables, the page and the card, which lists them: all of them, or those of before stay."""
    content = {
        "identity": found.identity,
        "layers": [asdict(card) for card in found.cards],
        "about": found.about,
        "typed": found.typed,
        "strings": found.strings,
        "before": found.before,
    }
    files = {f"{name}.csv": to_csv(table) for name, table in found.tables.items()}
    write_together(folder / CARD, content, {**files, PAGE: page})


def read_inspection(folder: Path) -> Inspection:
    """Read the inspection. Raises ValueError where nothing is, and NotWholeError, which is one,
    for files that are not those that were written.
    """
    if not (folder / CARD).exists():
        raise ValueError(f"{folder} has no {CARD}: python -m experiments.inspect RUN writes one")
    try:
        found, wrong = _read(folder / CARD)
    except (OSError, ValueError) as error:
        raise NotWholeError(folder, {CARD: _not_card(error)}, _AGAIN) from None
    if wrong:
        raise NotWholeError(folder, wrong, _AGAIN)
    return found


def fitting(folder: Path, identity: Mapping[str, Any]) -> tuple[Inspection | None, dict[str, str]]:
    """What is there of the same run, texts and settings, with the tables that are as they were
    written; and of each other file the reason, in words. None: nothing that can be used is there.

    Raises ValueError if the folder is of another run, of other texts or settings.
    """
    path = folder / CARD
    settle(path)
    if not path.exists():
        return None, {}
    theirs: Any = None  # by what the card says, whether it is as it was written or not
    with suppress(OSError, ValueError):
        theirs = read_json(path).get("identity")
    if isinstance(theirs, dict) and theirs != identity:
        differ = [key for key in identity if theirs.get(key) != identity[key]]
        raise ValueError(
            f"{folder} has the results of another inspection (other {', '.join(differ)}); name "
            "another folder by out=..., or delete it"
        )
    if not isinstance(theirs, dict) and not (folder / STATISTICS).exists():
        raise ValueError(  # the statistics have their own identity
            f"{path} can't be read, and nothing there says which texts its tables are of; "
            "name another folder by out=..., or delete it"
        )
    try:
        return _read(path)
    except (OSError, ValueError) as error:
        return None, {CARD: _not_card(error)}


def _not_card(error: Exception) -> str:
    return f"is no card of an inspection ({getattr(error, 'strerror', None) or error})"


def _read(path: Path) -> tuple[Inspection, dict[str, str]]:
    """Read the inspection of a card, with the tables that are as they were written; and of each
    other file the reason, in words. Raises ValueError, in words, where a value is missing.
    """
    listed = read_list(path)
    wrong = listed.wrong()
    try:
        identity, layers, about, typed, strings, before = (listed.values[key] for key in _OF_CARD)
        cards = tuple(LayerCard(**card) for card in layers)
        names = [card.name for card in cards]
        if not names or names != identity["layers_read"]:
            raise ValueError(f"it has the layers {', '.join(names) or 'none'}, and not those read")
        for name in names:
            about[name]["lifts"], about[name]["classes"], about[name]["map"]
        identity["run_id"], identity["patch"], [text["name"] for text in identity["texts"]]
        files = {PAGE, *(f"{name}.csv" for name in TABLES)}
        if missing := files - listed.files.keys():
            raise ValueError(f"it lists no {min(missing)}")
        found = Inspection(
            identity=identity, cards=cards, about=about, tables={}, typed=dict(typed),
            strings=tuple(map(str, strings)), before=str(before),
        )  # fmt: skip
    except (LookupError, TypeError) as error:
        raise ValueError(f"a value is missing or of another kind: {error}") from None
    tables = {}
    for name in TABLES:
        if (file := f"{name}.csv") not in wrong:
            try:
                tables[name] = _table(path.with_name(file), found)
            except ValueError as error:
                wrong[file] = str(error)
    return replace(found, tables=tables), wrong


def _table(path: Path, of: Inspection) -> pd.DataFrame:
    """As it was written, to the bit. Pandas' own reader of numbers differs from release to release,
    and Python's does not. Raises ValueError, in words, for one that is not of the inspection.
    """
    table = pd.read_csv(regular(path, MOST), dtype=str, keep_default_na=False)
    columns = {str(name): table[name].tolist() for name in table}
    if missing := {"layer", *TABLES[path.stem]} - columns.keys():
        raise ValueError(f"has no column {min(missing)}")
    texts = {text["name"] for text in of.identity["texts"]} | (
        set(of.typed) if path.stem in _TYPED else set()
    )
    found = {
        name: list(map(unguarded, own)) if name in TEXTS else _numbers(name, own)
        for name, own in columns.items()
    }
    for name, known in (("layer", {card.name for card in of.cards}), ("text", texts)):
        if other := set(map(str, found.get(name, ()))) - known:
            raise ValueError(f"has a {name} that {CARD} does not name: {min(other)}")
    return pd.DataFrame(found)


def _numbers(name: str, texts: list[str]) -> list[int] | list[float]:
    if all(map(str.isdecimal, texts)):
        return list(map(int, texts))
    if name in _WHOLE:
        raise ValueError(f"has a value of {name} that is no whole number")
    return [float(text or "nan") for text in texts]
