"""Has a run learnt to copy? `python -m tests.study.copying RUN ...`.

Where the token before and the target have stood together before in the same window, a model that
copies can know the target (training/by_document.py); elsewhere copying is no help. Newer records
have this by document. Writes results/study/inspect/copying.csv: of each run's held-out text the
loss, and that of both kinds of targets, nats/token.
"""

import sys
from pathlib import Path

import numpy as np

from experiments.data.documents import Documents
from experiments.data.windows import ScoredWindows
from experiments.inspection.interface import find_device
from experiments.inspection.opened import opened
from experiments.records.files import read_record
from experiments.training.by_document import ByDocument
from experiments.training.evaluation import evaluate
from tests.study.inside.files import write_rows


def losses(run_dir):
    """Record, and the sums over its held-out text (ByDocument.columns)."""
    record = read_record(run_dir / "record.json")
    run = opened(run_dir, record, (), (), layers=["blocks.0.ffn"], change=None)
    (text,) = run.texts
    windows = ScoredWindows(
        text.tokens,
        seq_len=run.reading.seq_len,
        batch_size=run.reading.batch_size,
        max_tokens=text.max_tokens,
    )
    whole = Documents(ends=np.empty(0, np.int64), domains=(), domain=np.empty(0, np.int64))
    found = ByDocument(windows, whole, np.zeros(run.model.config.vocab_size))
    evaluate(run.model, windows, found.token_bytes, find_device(run.model), found.add)
    columns = {name: values[0] for name, values in found.columns().items()}
    return record, columns


def main():
    rows = []
    for path in map(Path, sys.argv[1:]):
        record, sums = losses(path)
        assert abs(sums["nats"] / sums["n_tokens"] - record.val_loss) < 1e-4, path
        n_new = sums["n_tokens"] - sums["n_repeated"]
        nats_new = sums["nats"] - sums["nats_repeated"]
        rows.append(
            {"sweep": record.sweep, "run_id": record.run_id, "model": record.model,
             "budget": record.budget, "seed": record.seed, "lr": record.config["ladder"]["lr"],
             "schedule": record.config["optim"]["schedule"],
             "final_lr": record.config["optim"]["final_lr"],
             "repeated_share": sums["n_repeated"] / sums["n_tokens"], "loss": record.val_loss,
             "repeated": sums["nats_repeated"] / sums["n_repeated"], "new": nats_new / n_new}
        )  # fmt: skip
        print(rows[-1], flush=True)
        write_rows("copying.csv", rows)


if __name__ == "__main__":
    main()
