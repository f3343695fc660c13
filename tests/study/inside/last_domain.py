"""Which rows hold a stream's last domain? `python -m tests.study.inside.last_domain RUN STEP`.

RUN has learnt a stream by its tables alone, and kept the checkpoint after STEP, where its last
domain begins. Between the two nothing but rows of experts differs: with all of them put back the
model is that of STEP, to the bit, which is checked. So for the n experts whose rows moved most,
that the last domain reads most, that it reads most beside other texts (lift), and for as many
random ones, each of about the mass of one that moved most:

- back: the change of each text's loss where these are put back, of the run's end;
- alone: where these of the run's end are put into the model of STEP.

part: that change as a share of what all experts change, of the last domain. Documents are the unit:
those of even numbers choose by what is read, and those of odd ones are scored. Writes
results/study/inspect/last_domain.csv.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from experiments.finished.model import load_weights
from experiments.inspection.ablation.choosing import by_lift, equal_mass
from experiments.inspection.ablation.of_texts import text_mass
from experiments.inspection.ablation.result import ratio
from experiments.inspection.editing.applying import edited, list_edits
from experiments.records.kept import kept_path
from tests.study.inside.files import ends_of, write_rows
from tests.study.inside.texts import BLOCK, nats, opened, units

TOKENS = 32768  # of each text
COUNTS = (64, 512, 4096)
DRAWS = 3


def moved(layer, other):
    """(N,): how far each expert's rows are from the other's, all of its rows together."""
    pairs = zip(layer.layer.expert_rows().values(), other.layer.expert_rows().values(), strict=True)
    squares = sum((a - b).detach().flatten(1).double().square().sum(1) for a, b in pairs)
    return squares.sqrt().numpy()


def choices(mass, last, distance):
    """(by, n, experts). mass: (texts, N), of documents of even numbers."""
    overall = (mass / mass.sum(1, keepdims=True)).mean(0)
    orders = {"moved": np.argsort(-distance), "read": np.argsort(-mass[last])}
    rng = np.random.default_rng(0)
    for n in COUNTS:
        for by, order in orders.items():
            yield by, n, order[:n]
        if n <= (overall >= overall.mean()).sum():
            yield "lift", n, by_lift(mass, last, n)
        for draw in range(DRAWS):
            yield f"random {draw + 1}", n, equal_mass(overall, orders["moved"][:n], rng)


def exchanged(layer, source, experts):
    """A context in which these experts of a layer are the source's."""
    pairs = tuple((int(expert), int(expert)) for expert in experts)
    return edited(layer, list_edits(layer, source, added=pairs))


def opened_stream(run_dir):
    """Run, with its base's text and those of its domains alone, the last one last."""
    run = opened(run_dir, [f"evaluation.max_tokens={TOKENS}"], [BLOCK], ())
    order = ["base", *run.record.config["data"]["corpus"]["order"]]
    texts = sorted(
        (text for text in run.texts if text.name in order), key=lambda text: order.index(text.name)
    )
    return replace(run, texts=texts)


def main():
    run_dir, step = Path(sys.argv[1]), int(sys.argv[2])
    run, old = (opened_stream(run_dir) for _ in range(2))
    load_weights(old.model, kept_path(run_dir, step), step)
    those = units(run)
    (now,), (before,) = run.layers, old.layers
    ways = {"back": (run.model, now, before), "alone": (old.model, before, now)}
    start = {way: nats(model, those) for way, (model, *_) in ways.items()}
    everything = range(now.n_experts)
    with exchanged(now, before, everything):
        same = zip(nats(run.model, those), start["alone"], strict=True)
        assert all(np.array_equal(a, b) for (a, _), (b, _) in same)
    mass = text_mass(run.model, now, those, halved=True)
    share = (mass / mass.sum(1, keepdims=True))[-1]
    distance, rows = moved(now, before), []
    chosen = [("all", now.n_experts, np.array(everything)), *choices(mass, -1, distance)]
    for by, n, experts in chosen:
        about = {
            "by": by,
            "n": n,
            "mass": float(share[experts].sum()),
            "distance": float((distance[experts] ** 2).sum() / (distance**2).sum()),
        }
        for way, (model, layer, source) in ways.items():
            end = start["alone" if way == "back" else "back"]
            with exchanged(layer, source, experts):
                found = nats(model, those)
            for text, first, own, whole in zip(those, start[way], found, end, strict=True):
                rows.append(about | {"way": way} | line(text, first, own, whole))
        print(rows[-1], flush=True)
        write_rows("last_domain.csv", rows)


def line(text, first, own, whole):
    """Of one text's documents of odd numbers; each is its nats and its targets."""
    size = first[1]
    told = np.flatnonzero((size > 0) & (np.arange(text.n) % 2 == 1))
    change, every = ((nats[told] - first[0][told]) for nats, _ in (own, whole))
    return {
        "text": text.name,
        "n_documents": len(told),
        **ends_of("change", ratio(change, size[told])),
        **ends_of("part", ratio(change, every)),
    }


if __name__ == "__main__":
    main()
