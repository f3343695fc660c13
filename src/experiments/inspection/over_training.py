"""Cards of a run's layers at the checkpoints that it kept (trainer.keep_at), over the same
tokens: how its experts came to be used.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd

from experiments.finished.model import load_weights
from experiments.inspection.cards import LayerCard, layer_card
from experiments.inspection.opened import Opened
from experiments.inspection.page.page import save
from experiments.inspection.reading import read_through
from experiments.inspection.results import TABLES, TRAINING, Inspection
from experiments.records.files import CHECKPOINT_NAME
from experiments.records.kept import kept
from experiments.system.disk import remove

_COLUMNS = TABLES[TRAINING]


def with_training(found: Inspection, run: Opened, folder: Path) -> Inspection:
    """Inspection with the cards of all kept checkpoints, and of the run's end, in its table
    `training`. It is saved after each checkpoint, and none that is there already is read again.

    The model has the weights of the run's end afterwards. Raises DamagedError for a checkpoint that
    is not whole.
    """
    record, run_dir = run.record, run.run.run_dir

    def lines(step: int, cards: Sequence[LayerCard]) -> pd.DataFrame:
        rows = [
            [card.name, step, step * record.batch_tokens, *map(asdict(card).get, _COLUMNS[2:])]
            for card in cards
        ]
        return pd.DataFrame(rows, columns=["layer", *_COLUMNS])

    end, there = record.n_steps, found.tables[TRAINING]["step"].tolist()
    paths = {step: path for step, path in sorted(kept(run_dir).items()) if step != end}
    statistics = {step: folder / f"{path.stem}.npz" for step, path in paths.items()}
    for step in paths.keys() & {*there}:  # a kill came before they went
        remove(statistics[step])
        del paths[step]
    if not paths:
        return found
    place = {card.name: i for i, card in enumerate(found.cards)}
    tables = [found.tables[TRAINING]]
    if not there:
        tables = [lines(end, found.cards)]
    try:
        for step, path in paths.items():
            load_weights(run.model, path, step)
            print(f"step {step:,} of {end:,}, {path.name}", flush=True)
            reading = replace(run.reading, identity={**run.reading.identity, "step": step})
            read = read_through(run.model, run.layers, reading, folder, statistics[step].name)
            tables.append(
                lines(step, [layer_card(layer, read[layer.name]) for layer in run.layers])
            )
            # each layer's together, by step
            table = pd.concat(tables).sort_values("step", kind="stable")
            table = table.sort_values("layer", key=lambda names: names.map(place), kind="stable")
            rows = table.reset_index(drop=True)
            found = replace(found, tables={**found.tables, TRAINING: rows})
            save(found, folder, name=record.model)
            remove(statistics[step])
    finally:
        load_weights(run.model, run_dir / CHECKPOINT_NAME, end)
    return found
