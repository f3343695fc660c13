"""Stage *batch* of the study's third edition, as results/study/edition_3/registration.md has it:
does twice the batch lower the spread of seeds?

    python -m tests.study.batch
"""

import math

import numpy as np

from tests.study.records import find

LAYERS, BUDGET, SIZE = ("moe_fine", "peer"), 3e13, 5
BEFORE, NOW = ("study/edition_2", 4), ("study/edition_3", 8)  # sweep, sequences a step
PART, WORSE = 2 / 3, 0.02  # what was registered: of the spread, and nats/token of the mean


def losses(model, stage):
    """At the law's rate, by seed."""
    sweep, batch = stage
    return np.array(
        [
            r.val_loss
            for r in find(sweep, model=model, n_layers=SIZE)
            if math.isclose(r.budget, BUDGET)
            and r.config["ladder"]["batch_size"] == batch
            and r.config["optim"].get("law")
            and r.config["trunk"]["ffn_blocks"] == "middle"
        ]
    )


def spread(stage):
    """Standard deviation of seeds about their layer's mean, pooled over both layers."""
    found = [losses(model, stage) for model in LAYERS]
    squares = sum(((own - own.mean()) ** 2).sum() for own in found)
    return math.sqrt(squares / sum(len(own) - 1 for own in found))


def change(model):
    """Mean loss of twice the batch minus that before."""
    return losses(model, NOW).mean() - losses(model, BEFORE).mean()


def is_used():
    """Whether stage *fine* takes eight sequences a step."""
    return spread(NOW) <= PART * spread(BEFORE) and all(change(m) <= WORSE for m in LAYERS)


if __name__ == "__main__":
    print(
        f"spread {spread(NOW):.4f}, before {spread(BEFORE):.4f}: {spread(NOW) / spread(BEFORE):.2f}"
    )
    for model in LAYERS:
        print(f"{model}: {len(losses(model, NOW))} runs, mean loss {change(model):+.4f}")
    print("used" if is_used() else "not used")
