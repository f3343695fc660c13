"""Windows of the text of finished runs, to find adapters by and to score them on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from experiments.adapters.lora_files import LoRA, read_lora
from experiments.config.words import PLACES
from experiments.data import packed
from experiments.data.packed import PackedText
from experiments.data.prepare import prepare_data, prepare_sets
from experiments.finished.library import take_off
from experiments.finished.model import read_finished, read_run
from experiments.records.finished import finished_record


@dataclass(frozen=True, kw_only=True)
class AdapterRun:
    """An adapter, and windows (n, seq) of the text that it was trained on, and of its held-out
    text.
    """

    lora: LoRA
    fit: Tensor
    held_out: Tensor


def domain_name(run_dir: Path) -> str:
    """Name of a run's adapter: the domain of its corpus, or else its folder."""
    corpus = finished_record(run_dir).config["data"]["corpus"]
    return str(corpus.get("domain") or run_dir.resolve().name)


def find_adapter(run_dir: Path, names: Sequence[str]) -> str:
    """Which of a library's adapters a run trained, by name: that of its domain, or of its folder.

    Raises ValueError if none is named so.
    """
    domain, folder = domain_name(run_dir), run_dir.resolve().name
    for name in (domain, folder):
        if name in names:
            return name
    said = " nor ".join(repr(name) for name in dict.fromkeys((domain, folder)))
    raise ValueError(
        f"no adapter is named {said}, which {run_dir} is of; the library has {', '.join(names)}: "
        f"say which by NAME={run_dir}"
    )


def read_adapter(
    run_dir: Path,
    overrides: Sequence[str],
    *,
    n_fit: int,
    n_held_out: int,
    name: str | None = None,
) -> AdapterRun:
    """overrides: of trainer and paths. n_fit, n_held_out: windows, spread evenly over the splits.
    name: what the adapter is called; None: as domain_name() says.

    Raises ValueError for a run without adapters, and a split that has not so many windows.
    """
    lora = read_lora(run_dir, domain_name(run_dir) if name is None else name)
    run = read_run(run_dir, finished_record(run_dir), overrides)
    data = run.config.data
    prepared = prepare_data(data, run.cache)
    if prepared.train is None:
        raise ValueError(f"{run_dir} was trained on streamed text; its windows can't be read again")
    return AdapterRun(
        lora=lora,
        fit=cut_windows(prepared.train, data.seq_len, n_fit, f"{run_dir}'s training"),
        held_out=cut_windows(
            prepared.validation, data.seq_len, n_held_out, f"{run_dir}'s held-out"
        ),
    )


def read_base(run_dir: Path, overrides: Sequence[str]) -> nn.Module:
    """Model that a run of init.train=lora began with."""
    model = read_finished(run_dir, overrides)[2]
    take_off(model)
    return model


def read_sets(
    run_dir: Path, overrides: Sequence[str], n_windows: int, **n_of: int
) -> dict[str, Tensor]:
    """Windows of named sets, eval=[...], in the run's tokens. n_of: of some sets, how many."""
    run = read_run(run_dir, finished_record(run_dir), overrides, ("eval", *PLACES))
    data = run.config.data
    sets = prepare_sets(data, run.config.eval, run.vocabulary, run.cache)
    return {
        name: cut_windows(text, data.seq_len, n_of.get(name, n_windows), name)
        for name, text in sets.items()
    }


def cut_windows(text: PackedText, seq_len: int, n: int, what: str) -> Tensor:
    """(n, seq_len) int64, spread evenly. Raises ValueError if the text is shorter."""
    n_all = len(text) // seq_len
    if n_all < n:
        raise ValueError(f"{what} text has {n_all} windows of {seq_len} tokens, fewer than {n}")
    starts = np.linspace(0, n_all - 1, n).round().astype(int) * seq_len
    return torch.from_numpy(packed.cut_windows(text, starts, seq_len).astype(np.int64))
