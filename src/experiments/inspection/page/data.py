"""Values that the page's script draws, plain, of the tables and no more."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from experiments.inspection.cards import LayerCard
from experiments.inspection.results import Inspection

_LEVELS = 254  # of a map's colours, beside 0 for no mass


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of the tables a page holds: cells of a map's side, experts of a group, contexts of
    an expert, experts that the search knows, experts of a token, tokens of texts that were typed.
    """

    side: int = 256
    experts: int = 12
    contexts: int = 8
    searched: int = 1000
    parts: int = 16
    typed: int = 8192


def layer_data(found: Inspection, card: LayerCard, size: Size) -> dict[str, Any]:
    """One layer's part of the page."""
    own = {name: table[table["layer"] == card.name] for name, table in found.tables.items()}
    texts = [text["name"] for text in found.identity["texts"]]
    chosen = own["chosen"][own["chosen"]["rank"] <= size.experts]
    groups = {name: ids["expert"].tolist() for name, ids in chosen.groupby("group", sort=False)}
    shown = set(chosen["expert"].tolist())
    by_expert = {name: _by_expert(own[name], shown, columns) for name, columns in _SHOWN.items()}
    total = float(own["experts"]["mass"].sum())
    return {
        "name": card.name,
        "kind": card.kind,
        "routed": card.routed,
        "n": card.n_experts,
        "map": _map(own["map"], own["before_map"], found.about[card.name], texts, size.side),
        "tests": found.about[card.name]["lifts"],
        "class_tests": found.about[card.name]["classes"],
        "groups": groups,
        "experts": [_expert(expert, by_expert, total, size) for expert in sorted(shown)],
        "written": own["promoted"]["of"].iloc[0] if len(own["promoted"]) else "",
        "peak": _peak(own["promoted"], groups.get("random", [])),
        "texts": _excerpts(found, own["excerpts"], own["parts"], size),
        "search": {
            **_search(own["experts"], own["tokens"], "token", size.searched),
            "bigrams": _search(own["experts"], own["bigrams"], "string", size.searched),
        },
        "strings": _strings(own["strings"]),
    }


_Rows = list[list[Any]]
_SHOWN = {
    "experts": ("n_tokens", "n_documents", "mass"),
    "contexts": ("gate", "text", "position", "before", "token", "after"),
    "tokens": ("token", "n_tokens"),
    "lifts": ("text", "lift", "low", "high", "q"),
    "classes": ("class", "lift", "low", "high", "q"),
    "promoted": ("side", "token", "deviations"),
    "nearest": ("by", "other", "cosine"),
}


def _by_expert(table: pd.DataFrame, shown: set[int], columns: Sequence[str]) -> dict[int, _Rows]:
    """Values of each shown expert's lines."""
    table = table[table["expert"].isin(shown)]
    found: dict[int, _Rows] = {expert: [] for expert in shown}
    values = (table[name].tolist() for name in columns)
    for expert, *row in zip(table["expert"].tolist(), *values, strict=True):
        found[expert].append(row)
    return found


def _expert(
    expert: int, tables: Mapping[str, Mapping[int, _Rows]], total: float, size: Size
) -> dict[str, Any]:
    own = {name: rows[expert] for name, rows in tables.items()}
    ((n_tokens, n_documents, mass),) = own["experts"]
    return {
        "expert": expert,
        "n_tokens": n_tokens,
        "n_documents": n_documents,
        "share": _plain(mass / total if total else 0.0),
        "contexts": _plain(own["contexts"][: size.contexts]),
        "tokens": own["tokens"],
        "lifts": _plain(own["lifts"]),
        "classes": _plain([row for row in own["classes"] if np.isfinite(row[1])]),
        **{
            side: _plain([row for of, *row in own["promoted"] if of == side])
            for side in ("promoted", "suppressed")
        },
        "nearest": {
            by: _plain([row for of, *row in own["nearest"] if of == by]) for by in ("value", "key")
        },
    }


def _peak(table: pd.DataFrame, random: list[int]) -> list[float] | None:
    """Of the random experts' most promoted tokens the median deviation, the least and the most."""
    first = table[(table["side"] == "promoted") & (table["rank"] == 1)]
    own = first[first["expert"].isin(random)]["deviations"]
    return [own.median(), own.min(), own.max()] if len(own) else None


def _excerpts(
    found: Inspection, table: pd.DataFrame, parts: pd.DataFrame, size: Size
) -> list[dict[str, Any]]:
    """Each text's tokens, and of each the experts of the largest parts. Of typed texts the last
    come first, as far as there is room for them.
    """
    counts = table["text"].value_counts(sort=False)
    lengths = {str(name): int(n) for name, n in counts.items()}
    typed: list[str] = []
    room = size.typed
    for name in reversed(list(found.typed)):
        if name in lengths and lengths[name] <= room:
            typed.append(name)
            room -= lengths[name]
    return [
        {
            "name": name,
            "typed": found.typed.get(name, ""),
            "rows": _rows(table[table["text"] == name], parts[parts["text"] == name], size.parts),
        }
        for name in [*typed, *(name for name in lengths if name not in found.typed)]
    ]


def _rows(table: pd.DataFrame, parts: pd.DataFrame, n: int) -> _Rows:
    """token, next, logit, part, beside, others and the n largest parts of each token; what is not
    among these is in `others`.
    """
    columns = ["token", "next", "logit", "part", "beside", "others"]
    named: list[_Rows] = [[] for _ in range(len(table))]
    left = [0.0] * len(table)
    each = (parts[column].tolist() for column in ("position", "expert", "gate", "part"))
    for at, expert, gate, part in zip(*each, strict=True):
        if len(named[at]) < n:
            named[at].append([expert, _plain(gate), *_exact([part])])
        else:
            left[at] += part
    return [
        [*_exact([*row, others + more]), own]
        for (*row, others), more, own in zip(
            table[columns].to_numpy().tolist(), left, named, strict=True
        )
    ]


def _strings(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Each string that was looked for: of each of its tokens the experts that fire on it."""
    found = []
    for string, own in table.groupby("string", sort=False):
        columns = ["expert", "share", "low", "high", "elsewhere", "overall"]
        found.append(
            {
                "string": string,
                "n_read": int(own["n_read"].iloc[0]),
                "n_documents": int(own["n_documents"].iloc[0]),
                "tokens": [
                    [
                        few["token"].iloc[0],
                        [[int(e), *_plain(more)] for e, *more in few[columns].to_numpy().tolist()],
                    ]
                    for _, few in own.groupby("position")
                ],
            }
        )
    return found


def _exact(row: list[Any]) -> list[Any]:
    """To the eighth decimal, so that what adds up still does."""
    return [round(value, 8) if isinstance(value, float) else value for value in row]


def _search(experts: pd.DataFrame, tokens: pd.DataFrame, column: str, n: int) -> dict[str, Any]:
    """strings, and of each expert its number, tokens that read it, and places of strings with their
    counts: of the n of the largest mass that have any. column: of tokens, the strings.
    """
    known = experts[experts["expert"].isin(tokens["expert"])]
    known = known.sort_values("mass", ascending=False, kind="stable").head(n)
    own = tokens[tokens["expert"].isin(known["expert"])]
    strings = {text: i for i, text in enumerate(dict.fromkeys(own[column].tolist()))}
    counts: dict[int, list[list[int]]] = {}
    each = (own[name].tolist() for name in ("expert", column, "n_tokens"))
    for expert, token, times in zip(*each, strict=True):
        counts.setdefault(int(expert), []).append([strings[token], int(times)])
    pairs = zip(known["expert"].tolist(), known["n_tokens"].tolist(), strict=True)
    return {"strings": list(strings), "experts": [[e, n, counts[e]] for e, n in pairs]}


def _plain(value: Any) -> Any:
    """To six digits. JSON has no number that is not finite: none of them is shown as one."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    return value


def _map(
    table: pd.DataFrame,
    before: pd.DataFrame,
    layer: Mapping[str, Any],
    texts: list[str],
    side: int,
) -> dict[str, Any]:
    """Each text's cells as bytes, row by row: 0 for no mass, else 1 to 255 from the least to the
    most, evenly in the logarithm. The same of the run before, if it was read, and the change.
    """
    about = layer["map"]
    tall = -(-about["rows"] // side)
    wide = -(-about["columns"] // (side if about["sub_keys"] else 4 * side))
    then = layer.get("before")
    grids = [
        _with_all(_grid(own, about, texts, tall, wide))
        for own in (table, *([] if then is None else [before]))
    ]
    names = ["all texts", *texts] if len(texts) > 1 else texts
    drawn = []
    for name, *cells in zip(names, *grids, strict=True):
        if all(own.any() for own in cells):
            now, *old = (own / own.sum() for own in cells)
            one = {"name": name, **_levels(now)}
            if old:
                one |= {"before": _levels(old[0]), "change": _changes(now, old[0])}
            drawn.append(one)
    _, rows, columns = grids[0].shape
    return {
        "rows": rows,
        "columns": columns,
        "tall": tall * about["tall"],
        "wide": wide * about["wide"],
        "across": about["n_columns"],
        "sub_keys": about["sub_keys"],
        "texts": drawn,
        "before": then and {key: _plain(value) for key, value in then.items()},
    }


def _grid(
    table: pd.DataFrame, about: Mapping[str, Any], texts: list[str], tall: int, wide: int
) -> np.ndarray:
    """Mass of each text in cells of tall x wide of the table's."""
    grid = np.zeros((len(texts), about["rows"], about["columns"]))
    number = table["text"].map({name: i for i, name in enumerate(texts)}).to_numpy(np.int64)
    grid[number, table["row"], table["column"]] = table["mass"]
    grid = np.pad(grid, ((0, 0), (0, -grid.shape[1] % tall), (0, -grid.shape[2] % wide)))
    shape = (len(texts), grid.shape[1] // tall, tall, grid.shape[2] // wide, wide)
    summed: np.ndarray = grid.reshape(shape).sum((2, 4))
    return summed


def _with_all(grid: np.ndarray) -> np.ndarray:
    """With the sum of all texts first, if there are several."""
    return np.concatenate([grid.sum(0, keepdims=True), grid]) if len(grid) > 1 else grid


def _changes(now: np.ndarray, before: np.ndarray) -> str:
    """Bytes, row by row: 0 for no mass in either; 1 to 255 from a share of a 16th or less of what
    it was to 16 times or more, evenly in the logarithm, so that 128 is the same.
    """
    with np.errstate(all="ignore"):
        times = np.clip(np.log2(now / before), -4, 4)
    levels = np.where((now > 0) | (before > 0), 128 + np.rint(127 * times / 4), 0)
    return base64.b64encode(levels.astype(np.uint8).tobytes()).decode("ascii")


def _levels(share: np.ndarray) -> dict[str, Any]:
    some = share > 0
    least, most = float(share[some].min()), float(share.max())
    span = np.log(most / least)
    place = np.zeros(share.shape)
    if span > 0:
        place[some] = np.log(share[some] / least) / span
    levels = np.where(some, 1 + np.rint(_LEVELS * place), 0).astype(np.uint8)
    return {
        "least": least,
        "most": most,
        "levels": base64.b64encode(levels.tobytes()).decode("ascii"),
    }
