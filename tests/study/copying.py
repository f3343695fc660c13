"""Has a run learnt to copy? `python -m tests.study.copying RUN ...`.

Where the token before and the target have stood together before in the same window, a model that
copies (Olsson et al. 2022, arXiv:2209.11895, induction heads) knows the target; elsewhere copying
is no help. Writes results/study/inspect/copying.csv: of each run's held-out text the loss, and that
of both kinds of targets, nats/token.
"""

import sys
from pathlib import Path

import numpy as np

from experiments.data.batches import IGNORED
from experiments.data.windows import ScoredWindows
from experiments.inspection.interface import device_of
from experiments.inspection.opened import opened
from experiments.records.record import read_record
from experiments.training.evaluation import evaluate
from tests.study.inside.files import write_rows


def repeated(ids, targets):
    """(n,) of one window: whether this pair of token and target has stood there before."""
    seen, found = set(), []
    for pair in zip(ids.tolist(), targets.tolist(), strict=True):
        found.append(pair in seen)
        seen.add(pair)
    return np.array(found)


def losses(run_dir):
    """The record, and the nats and counts of both kinds of targets, of others first."""
    record = read_record(run_dir / "record.json")
    run = opened(run_dir, record, (), (), layers=["blocks.0.ffn"], change=None)
    (text,) = run.texts
    windows = ScoredWindows(
        text.tokens,
        seq_len=run.reading.seq_len,
        batch_size=run.reading.batch_size,
        max_tokens=text.max_tokens,
    )
    nats, counts, batches = np.zeros(2), np.zeros(2), list(windows)

    def each(index, targets, found):
        for ids, target, loss in zip(batches[index].inputs, targets, found.double(), strict=True):
            scored = (target != IGNORED).numpy()
            kind = repeated(ids, target)[scored].astype(int)
            nats[:] += np.bincount(kind, loss.numpy()[scored], minlength=2)
            counts[:] += np.bincount(kind, minlength=2)

    no_bytes = np.zeros(run.model.config.vocab_size)
    evaluate(run.model, windows, no_bytes, device_of(run.model), each)
    return record, nats, counts


def main():
    rows = []
    for path in map(Path, sys.argv[1:]):
        record, nats, counts = losses(path)
        assert abs(nats.sum() / counts.sum() - record.val_loss) < 1e-4, path
        new, copied = (nats / counts).tolist()
        rows.append(
            {"sweep": record.sweep, "run_id": record.run_id, "model": record.model,
             "budget": record.budget, "seed": record.seed, "lr": record.config["ladder"]["lr"],
             "schedule": record.config["optim"]["schedule"],
             "final_lr": record.config["optim"]["final_lr"],
             "repeated_share": float(counts[1] / counts.sum()), "loss": record.val_loss,
             "repeated": copied, "new": new}
        )  # fmt: skip
        print(rows[-1], flush=True)
        write_rows("copying.csv", rows)


if __name__ == "__main__":
    main()
