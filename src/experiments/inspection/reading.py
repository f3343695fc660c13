"""One pass over texts: what each layer's slots were is added up, and can be gone on with."""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from experiments.data.windows import ScoredWindows
from experiments.inspection.documents import find_ends
from experiments.inspection.interface import Inspected, find_device, listening
from experiments.inspection.results import STATISTICS
from experiments.inspection.statistics import Bounds, LayerStatistics
from experiments.inspection.texts import Text
from experiments.models.tokens import Tokens
from experiments.models.transformer import Transformer
from experiments.system.disk import whole_file
from experiments.system.environment import without_denormals
from experiments.system.regular_files import regular

SECONDS = 30.0  # between two saves
_OTHER = "or name another folder by out=..."


@dataclass(frozen=True, kw_only=True)
class Pass:
    """Texts that are read, and the limits of what is kept.

    classes: of each token id (classes.py). identity: the run, the texts and the rest of this, in
    plain values: no pass goes on from another's state.
    """

    texts: Sequence[Text]
    seq_len: int
    batch_size: int
    classes: np.ndarray
    end_of_text: int
    bounds: Bounds
    identity: dict[str, Any]

    @cached_property
    def windows(self) -> list[ScoredWindows]:
        """Each text's, as an evaluation has them."""
        return [
            ScoredWindows(
                text.tokens,
                seq_len=self.seq_len,
                batch_size=self.batch_size,
                max_tokens=text.max_tokens,
            )
            for text in self.texts
        ]

    def batches(self) -> Iterator[tuple[int, Tensor, np.ndarray, np.ndarray]]:
        """Number of the text, (batch, seq) ids, their (batch, seq) places in all texts, and the
        numbers of their documents in the text. What ends a document is a token of it.
        """
        first = 0
        for number, windows in enumerate(self.windows):
            ends = find_ends(windows.tokens, self.end_of_text)
            for i, batch in enumerate(windows):
                places = windows.places(i) - 1  # targets' are one on
                yield number, batch.inputs, places + first, np.searchsorted(ends, places)
            first += len(windows.tokens)

    def n_batches(self) -> int:
        return sum(map(len, self.windows))

    def n_tokens(self) -> int:
        """That are read."""
        return sum(len(w.starts) * self.seq_len + w.tail for w in self.windows)

    def n_bytes(self, layers: Sequence[Inspected]) -> int:
        """Memory of all statistics, at most."""
        about = len(self.texts), len(self.classes)
        return sum(self.bounds.n_bytes(layer.n_experts, *about) for layer in layers)


@without_denormals()
def read_through(
    model: Transformer,
    layers: Sequence[Inspected],
    reading: Pass,
    folder: Path,
    filename: str = STATISTICS,
) -> dict[str, LayerStatistics]:
    """Statistics of each layer, by name, which are in the folder's file then. What was read by
    a pass of the same identity that did not end is not read again. The model is in evaluation mode.
    """
    found = {
        layer.name: LayerStatistics(
            layer.n_experts, len(reading.texts), reading.classes, reading.bounds
        )
        for layer in layers
    }
    path = folder / filename
    done = _load(path, found, reading.identity)
    now: tuple[Any, ...] = ()

    def hear(layer: Inspected, x: Tensor, tokens: Tokens | None) -> None:
        found[layer.name].add(layer.layer.slots(x, tokens), *now)

    device, saved, n_batches = find_device(model), time.monotonic(), reading.n_batches()
    bar = tqdm(
        total=n_batches, initial=done, desc="reading", unit="batch", leave=False,
        disable=not sys.stderr.isatty(),
    )  # fmt: skip
    exact = torch.autocast(device.type, enabled=False)
    with bar, torch.no_grad(), exact, listening(layers, hear):
        rest = islice(enumerate(reading.batches(), 1), done, None)
        for i, (text, ids, places, documents) in rest:
            now = ids.numpy().ravel(), places.ravel(), text, documents.ravel()
            model(ids.to(device))
            bar.update()
            if i == n_batches or time.monotonic() - saved >= SECONDS:
                arrays: dict[str, Any] = {
                    f"{name}/{key}": value
                    for name, statistics in found.items()
                    for key, value in statistics.state().items()
                }
                about = json.dumps({"identity": reading.identity, "done": i}).encode()
                with whole_file(path, _OTHER) as file:
                    np.savez(file, about=np.frombuffer(about, np.uint8), **arrays)
                saved = time.monotonic()
    return found


class _OtherPass(Exception):
    """A state is of a pass over something else."""


def _load(path: Path, found: dict[str, LayerStatistics], identity: dict[str, Any]) -> int:
    """Batches that were read already, whose sums are in `found` then."""
    if not path.exists():
        return 0
    try:
        with np.load(regular(path), allow_pickle=False) as arrays:
            about = json.loads(arrays["about"].tobytes())
            if about["identity"] != identity:
                raise _OtherPass
            for name, statistics in found.items():
                own = {k: arrays[f"{name}/{k}"] for k in statistics.state()}
                statistics.load(own)
            return int(about["done"])
    except _OtherPass:
        raise ValueError(
            f"{path} is of other texts, layers or settings; name another folder by out=..., or "
            "delete it"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, BadZipFile) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} can't be gone on with ({why}); delete it") from None
