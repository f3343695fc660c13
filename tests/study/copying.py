"""Has a run learnt to copy, and when? Losses of kinds of targets, from a run's weights.

Where the token before and the target have stood together before in the same window, a model that
copies can know the target (training/by_document.py); elsewhere copying is no help. Of a run's end
newer records have this by document, so

    python -m tests.study.copying RUN ...

is of older ones: results/study/inspect/copying.csv, with the losses of the held-out text, of
repeated and of all other targets, nats/token.

    python -m tests.study.copying --kept RUN ...

scores the checkpoints that runs of the third edition kept (trainer.keep_at), on the whole held-out
text: results/study/edition_3/copying.csv, a line a checkpoint, with the loss of each kind of
target. Lines that are there already are not scored again. tests/study/kinds.py reads it. A word
with `=` is an override, such as paths.cache=FOLDER.
"""

import sys
from pathlib import Path

import numpy as np

from experiments.data.documents import Documents
from experiments.data.windows import ScoredWindows
from experiments.finished.model import load_weights
from experiments.inspection.interface import find_device
from experiments.inspection.opened import opened
from experiments.records.files import read_record
from experiments.records.kept import kept
from experiments.training.by_document import ByDocument
from experiments.training.evaluation import evaluate
from tests.study.inside.files import write_rows
from tests.study.kinds import by_kind, read_kept, write_kept

KEPT = "--kept"


class Scored:
    """A run that is open, and its held-out text."""

    def __init__(self, run_dir, overrides=()):
        self.record = read_record(run_dir / "record.json")
        run = opened(run_dir, self.record, (), overrides, layers=["blocks.0.ffn"], change=None)
        (text,) = run.texts
        self.model = run.model
        self.windows = ScoredWindows(
            text.tokens,
            seq_len=run.reading.seq_len,
            batch_size=run.reading.batch_size,
            max_tokens=text.max_tokens,
        )

    def sums(self):
        """Over the held-out text, with the weights that the model has (ByDocument.columns)."""
        whole = Documents(ends=np.empty(0, np.int64), domains=(), domain=np.empty(0, np.int64))
        found = ByDocument(self.windows, whole, np.zeros(self.model.config.vocab_size))
        evaluate(self.model, self.windows, found.token_bytes, find_device(self.model), found.add)
        return {name: values[0] for name, values in found.columns().items()}


def score_ends(run_dirs, overrides=()):
    rows = []
    for run_dir in run_dirs:
        run = Scored(run_dir, overrides)
        record, sums = run.record, run.sums()
        assert abs(sums["nats"] / sums["n_tokens"] - record.val_loss) < 1e-4, run_dir
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


def score_kept(run_dirs, overrides=()):
    rows = read_kept()
    there = {(row["run_id"], row["step"]) for row in rows}
    for run_dir in run_dirs:
        run = Scored(run_dir, overrides)
        record = run.record
        for step, path in sorted(kept(run_dir).items()):
            if (record.run_id, step) in there:
                continue
            load_weights(run.model, path, step)
            sums = run.sums()
            for name in ("n_tokens", "n_repeated", "n_seen"):  # the same targets as in the record
                assert sums[name] == sum(record.documents[name]), (run_dir, name)
            losses = by_kind(sums)
            n_tokens = step * record.batch_tokens
            rows.append({"run_id": record.run_id, "step": step, "n_tokens": n_tokens, **losses})
            print(rows[-1], flush=True)
            write_kept(rows)


def main():
    words = sys.argv[1:]
    score = score_kept if KEPT in words else score_ends
    own = [word for word in words if word != KEPT]
    score([Path(w) for w in own if "=" not in w], [w for w in own if "=" in w])


if __name__ == "__main__":
    main()
