"""Cards of a run's layers at the checkpoints that it kept (trainer.keep_at), over the same
tokens: how its experts came to be used.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd

from experiments.finished.model import load_weights
from experiments.inspection.cards import LayerCard, layer_card
from experiments.inspection.opened import Opened
from experiments.inspection.reading import read_through
from experiments.inspection.results import TABLES, TRAINING, Inspection
from experiments.records.kept import kept
from experiments.system.disk import remove
from experiments.training.checkpoints import LAST

_COLUMNS = TABLES[TRAINING]


def training_table(step: int, batch_tokens: int, cards: Sequence[LayerCard]) -> pd.DataFrame:
    """A line a layer, after so many steps of so many tokens; no cards, and it has its columns."""
    lines = [
        [card.name, step, step * batch_tokens, *(asdict(card)[name] for name in _COLUMNS[2:])]
        for card in cards
    ]
    return pd.DataFrame(lines, columns=["layer", *_COLUMNS])


def with_training(
    found: Inspection,
    run: Opened,
    run_dir: Path,
    folder: Path,
    save: Callable[[Inspection], None],
) -> Inspection:
    """Inspection with the cards of all kept checkpoints, and of the run's end, in its table
    `training`. save: called after each checkpoint, and none that is there already is read again.

    The model has the weights of the run's end afterwards. Raises DamagedError for a checkpoint that
    is not whole.
    """
    end, batch_tokens = run.record.n_steps, run.record.batch_tokens
    there = found.tables[TRAINING]["step"].tolist()
    paths = {step: path for step, path in sorted(kept(run_dir).items()) if step != end}
    for step in paths.keys() & {*there}:  # a kill came before they went
        remove(_statistics(folder, paths.pop(step)))
    if not paths:
        return found
    if not there:
        found = _with(found, training_table(end, batch_tokens, found.cards))
    try:
        for step, path in paths.items():
            load_weights(run.model, path, step)
            print(f"step {step:,} of {end:,}, {path.name}", flush=True)
            reading = replace(run.reading, identity={**run.identity, "step": step})
            statistics = _statistics(folder, path)
            read = read_through(run.model, run.layers, reading, folder, statistics.name)
            cards = [layer_card(layer, read[layer.name]) for layer in run.layers]
            found = _with(found, training_table(step, batch_tokens, cards))
            save(found)
            remove(folder / statistics)
    finally:
        load_weights(run.model, run_dir / LAST, end)
    return found


def _statistics(folder: Path, checkpoint: Path) -> Path:
    return folder / f"{checkpoint.stem}.npz"


def _with(found: Inspection, lines: pd.DataFrame) -> Inspection:
    """With more lines, each layer's together, by step."""
    place = {card.name: i for i, card in enumerate(found.cards)}
    table = pd.concat([own for own in (found.tables[TRAINING], lines) if len(own)])
    table = table.sort_values("step", kind="stable")
    table = table.sort_values("layer", key=lambda names: names.map(place), kind="stable")
    return replace(found, tables={**found.tables, TRAINING: table.reset_index(drop=True)})
