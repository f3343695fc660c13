"""Which experts fire on a string of one token or several, wherever it is in the texts.

An expert fires on a place of the string if the token there reads it. Of each place its share of the
occurrences is told, with an interval by document: documents are drawn, and not occurrences. It is
Clopper & Pearson's, of as many draws as would say as much if they were independent (Korn & Graubard
1998, Survey Methodology 24:193), at the level that is left to each of N experts (Bonferroni), since
those that are told are the best of all. Beside it are the share of the same token's other readings,
in the same batches, and that of all tokens: what fires on the token anyway says nothing of the
string.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy import stats
from tokenizers import Tokenizer
from torch import Tensor

from experiments.data.packed import Tokens as Packed
from experiments.inspection.interface import Inspected, find_device, listening
from experiments.inspection.opened import Opened
from experiments.inspection.reading import Pass
from experiments.inspection.results import TABLES
from experiments.inspection.statistics import counted
from experiments.models.tokens import Tokens

LEVEL = 0.95
MOST = 2000  # occurrences of a string that are read, spread evenly
N_TOLD = 10  # experts of each of its tokens
_FEWEST = 5  # documents, below which there is no interval


@dataclass(frozen=True, kw_only=True, eq=False)
class Occurrences:
    """A string as these ids, and where it begins: places in all texts in a row, ascending. read:
    those that are read, at most MOST.
    """

    string: str
    ids: tuple[int, ...]
    places: np.ndarray

    @property
    def read(self) -> np.ndarray:
        n = min(len(self.places), MOST)
        return self.places[np.arange(n) * len(self.places) // n]


def occurrences(string: str, reading: Pass, tokenizer: Tokenizer) -> list[Occurrences]:
    """Those of the string's tokens by itself, and after a space, in the windows that are read.

    Raises ValueError where there are none, and for white space alone.
    """
    if not string.strip():
        raise ValueError(
            f"find={string!r} is white space alone, which begins many tokens; give what "
            "follows it too"
        )
    ways = {tuple(tokenizer.encode(text).ids) for text in (string, f" {string}")}
    found, first = {ids: [np.zeros(0, np.int64)] for ids in sorted(ways) if ids}, 0
    for windows in reading.windows:
        every = {ids: _starts(windows.tokens, ids) for ids in found}
        for i in range(len(windows)):
            rows = windows.places(i) - 1  # of inputs
            for ids, starts in every.items():
                for low, high in rows[:, [0, -1]].tolist():
                    at = np.searchsorted(starts, [low, high + 2 - len(ids)])
                    found[ids].append(starts[slice(*at)] + first)
        first += len(windows.tokens)
    whole = {ids: np.concatenate(parts) for ids, parts in found.items()}
    if not any(map(len, whole.values())):
        raise ValueError(
            f"find={string} is nowhere in the texts that are read, by its own tokens or those "
            "after a space; give other texts, or a shorter string"
        )
    return [
        Occurrences(
            string=str(tokenizer.decode(list(ids), skip_special_tokens=False)),
            ids=ids,
            places=places,
        )
        for ids, places in whole.items()
        if len(places)
    ]


def _starts(tokens: Packed, ids: Sequence[int], n_at_once: int = 2**22) -> np.ndarray:
    """Places where the ids follow each other, ascending."""
    n = len(tokens) - len(ids) + 1
    found = [np.zeros(0, np.int64)]
    for start in range(0, n, n_at_once):
        end = min(start + n_at_once, n)
        part = np.asarray(tokens[start : end + len(ids) - 1])
        same = np.ones(end - start, bool)
        for i, token in enumerate(ids):
            same &= part[i : i + end - start] == token
        found.append(start + np.flatnonzero(same))
    return np.concatenate(found)


class Firing:
    """One layer and one token of a string: which experts fired at each occurrence."""

    def __init__(self, n_experts: int) -> None:
        self.n_experts = n_experts
        self.documents: list[np.ndarray] = []
        self.fired: list[tuple[np.ndarray, np.ndarray]] = []  # document, expert
        self.n_others, self.others = 0, np.zeros(n_experts, np.int64)

    def add(self, experts: np.ndarray, at: np.ndarray, other: np.ndarray, of: np.ndarray) -> None:
        """experts (T, J) of a batch, of documents `of` (T,); at: tokens of the string; other: those
        of the same id that are not.
        """
        self.documents.append(of[at])
        row, expert = _distinct(experts[at], self.n_experts)
        self.fired.append((of[at][row], expert))
        self.n_others += len(other)
        _, expert = _distinct(experts[other], self.n_experts)
        self.others += np.bincount(expert, minlength=self.n_experts)

    def table(self, overall: np.ndarray) -> pd.DataFrame:
        """A line an expert, of the N_TOLD whose share is most above that of all tokens (N,)."""
        names, sizes = np.unique(np.concatenate(self.documents), return_counts=True)
        document, expert = (np.concatenate(parts) for parts in zip(*self.fired, strict=True))
        n_read, n = np.bincount(expert, minlength=self.n_experts), int(sizes.sum())
        told = np.argsort(-(n_read / n - overall), kind="stable")[:N_TOLD]
        told = told[n_read[told] > 0]
        lows, highs = [], []
        for one in told:
            totals = np.bincount(
                np.searchsorted(names, document[expert == one]), minlength=len(names)
            )
            low, high = share_interval(totals, sizes, 1 - (1 - LEVEL) / self.n_experts)
            lows.append(low)
            highs.append(high)
        return pd.DataFrame(
            {
                "expert": told,
                "n_read": n,
                "n_documents": len(names),
                "share": n_read[told] / n,
                "low": lows,
                "high": highs,
                "elsewhere": self.others[told] / self.n_others if self.n_others else np.nan,
                "overall": overall[told],
            }
        )


def _distinct(experts: np.ndarray, n_experts: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and experts of (n, J) readings, each expert of a row once."""
    row = np.repeat(np.arange(len(experts)), experts.shape[1])
    return np.divmod(np.unique(row * n_experts + experts.ravel()), n_experts)


def share_interval(totals: np.ndarray, sizes: np.ndarray, level: float) -> tuple[float, float]:
    """That of sum totals / sum sizes over documents (D,), each of which counts from 0 to its size;
    nan of fewer than five.
    """
    n, n_documents, share = float(sizes.sum()), len(sizes), float(totals.sum() / sizes.sum())
    if n_documents < _FEWEST:
        return float("nan"), float("nan")
    tail = (1 - level) / 2
    off = totals - share * sizes
    variance = n_documents / (n_documents - 1) * float((off**2).sum()) / n**2
    draws = float(n_documents)  # where all say the same, they alone are known to be independent
    if variance:
        few = stats.t.isf(tail, n - 1) / stats.t.isf(tail, n_documents - 1)
        draws = min(n, share * (1 - share) / variance * float(few**2))
    hits = share * draws
    low = stats.beta.ppf(tail, hits, draws - hits + 1) if share > 0 else 0.0
    high = stats.beta.isf(tail, hits + 1, draws - hits) if share < 1 else 1.0
    return float(low), float(high)


def fired_on(
    run: Opened, sought: Sequence[Occurrences], overall: Mapping[str, np.ndarray]
) -> pd.DataFrame:
    """A line a layer, a string, a token of it and an expert that fires on it (TABLES).

    overall: of each layer the share (N,) of all tokens that read an expert. Batches without the
    string are not read.
    """
    model, reading = run.model, run.reading
    firings = {
        (layer.name, s, j): Firing(layer.n_experts)
        for layer in run.layers
        for s, one in enumerate(sought)
        for j in range(len(one.ids))
    }
    now: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}
    of = np.zeros(0, np.int64)

    def hear(layer: Inspected, x: Tensor, tokens: Tokens | None) -> None:
        experts = counted(layer.layer.slots(x, tokens), reading.bounds).experts.cpu().numpy()
        for (s, j), (at, other) in now.items():
            firings[layer.name, s, j].add(experts, at, other, of)

    device = find_device(model)
    n_before = np.cumsum([0, *(len(text.tokens) for text in reading.texts)])
    exact = torch.autocast(device.type, enabled=False)
    with torch.no_grad(), exact, listening(run.layers, hear):
        for number, ids, places, documents in reading.batches():
            flat, own = places.ravel(), ids.numpy().ravel()
            now = {}
            for s, one in enumerate(sought):
                starts = np.flatnonzero(np.isin(flat, one.read))
                if len(starts):
                    for j, token in enumerate(one.ids):
                        other = (own == token) & ~np.isin(flat - j, one.places)
                        now[s, j] = starts + j, np.flatnonzero(other)
            if now:
                of = documents.ravel() + n_before[number]  # no two texts have one number
                model(ids.to(device))
    lines = []
    for (name, s, j), firing in firings.items():
        table = firing.table(overall[name])
        word = run.tokenizer.decode([sought[s].ids[j]], skip_special_tokens=False)
        lines.append(table.assign(layer=name, string=sought[s].string, position=j, token=word))
    return pd.concat(lines, ignore_index=True)[["layer", *TABLES["strings"]]]
