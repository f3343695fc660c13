"""Was it the schedule? The tables of results/study/pilots.md, by `python -m tests.study.wsd`.

Of the records in results/study/wsd, and of seed 0 in results/study/isoflop (cosine) and
results/study/wsd_pilot (branches, which are the run from scratch): dense and PEER of four blocks at
3e13 FLOPs. In nats/token on the held-out text.
"""

import numpy as np

from experiments.records.files import find_records, read_record
from tests.study.committed import RESULTS
from tests.study.estimators import paired
from tests.study.inside.files import read_rows

BUDGET, BLOCKS = 3e13, 4
SCHEDULES = ("cosine to a tenth", "WSD", "line to zero")
SEEDS = (0, 1, 2)
RATES = {"dense": (5e-3, 3.5e-3, 2.5e-3), "peer": (5.5e-3, 3.9e-3, 2.75e-3)}


def schedule_of(record):
    optim = record.config["optim"]
    if optim["schedule"] == "cosine":
        return SCHEDULES[0]
    return SCHEDULES[2 if optim.get("final_lr") == 0 and optim["decay"] == 0.9 else 1]


def losses():
    """(model, schedule, rate): {seed: loss}."""
    found = {}
    for sweep in ("isoflop", "wsd_pilot", "wsd"):
        for path in find_records(RESULTS / sweep):
            r = read_record(path)
            own = r.val_loss is not None and (r.budget, r.n_layers) == (BUDGET, BLOCKS)
            lr = r.config["ladder"]["lr"]
            if own and r.model in RATES and lr in RATES[r.model]:
                found.setdefault((r.model, schedule_of(r), lr), {})[r.seed] = r.val_loss
    return {key: dict(sorted(of.items())) for key, of in found.items()}


def rows(found):
    """Layer, schedule, peak rate, losses of each seed, and their mean."""
    cells = []
    for model, rates in RATES.items():
        for schedule in SCHEDULES:
            for lr in rates:
                own = found.get((model, schedule, lr))
                if own:
                    seeds = [f"{own[s]:.4f}" if s in own else "" for s in SEEDS]
                    mean = f"{np.mean(list(own.values())):.4f}"
                    cells.append([model, schedule, f"{lr:.3g}", *seeds, mean])
    return cells


def contrasts(found):
    """Layer, what minus what, over how many seeds, and the difference; of two seeds or more."""
    cells = []
    for model, (high, middle, _) in RATES.items():
        of = {
            "cosine, first rate": found.get((model, SCHEDULES[0], high), {}),
            "cosine": found.get((model, SCHEDULES[0], middle), {}),
            "WSD": found.get((model, SCHEDULES[1], middle), {}),
        }
        for one, other in (
            ("WSD", "cosine"),
            ("cosine", "cosine, first rate"),
            ("WSD", "cosine, first rate"),
        ):
            n = len(of[one].keys() & of[other].keys())
            if n > 1:
                cells.append(
                    [model, f"{one} minus {other}", str(n), str(paired(of[one], of[other]))]
                )
    return cells


def copied():
    """Layer, budget, schedule, peak rate, seed, loss, that of pairs that are repeated and new
    (copying.py), and new less repeated, by loss; and of each layer over its runs of the pilot the
    columns of these four numbers.
    """
    found = sorted(read_rows("copying.csv"), key=lambda r: (-r["budget"], r["loss"]))
    cells, columns = [], {}
    for r in found:
        schedule = SCHEDULES[0 if r["schedule"] == "cosine" else 2 if r["final_lr"] == 0 else 1]
        numbers = [*(r[key] for key in ("loss", "repeated", "new")), r["new"] - r["repeated"]]
        if r["budget"] == BUDGET:
            columns.setdefault(r["model"], []).append(numbers)
        about = [r["model"], f"{r['budget']:.0e}".replace("e+", "e"), schedule, f"{r['lr']:.3g}"]
        cells.append([*about, f"{r['seed']:.0f}", *(f"{x:.3f}" for x in numbers)])
    return cells, {model: np.array(of).T for model, of in columns.items()}


def verdict(found):
    """By the rule of conf/experiment/study_wsd.yaml, which was written before any of them ran."""
    mean = float(np.mean(list(found["dense", SCHEDULES[0], 5e-3].values())))
    wsd = float(np.mean(list(found["dense", SCHEDULES[1], 3.5e-3].values())))
    if mean < 3.56:
        return mean, wsd, "noise"
    return mean, wsd, "schedule" if mean > 3.58 and wsd < 3.55 else "undecided"


if __name__ == "__main__":
    found = losses()
    for cells in rows(found):
        print("| " + " | ".join(cells) + " |")
    print()
    for table in (contrasts(found), copied()[0]):
        for cells in table:
            print("| " + " | ".join(cells) + " |")
        print()
    mean, wsd, said = verdict(found)
    print(f"dense: cosine {mean:.3f}, WSD {wsd:.3f}: {said}\n")
    means = {model: of.mean(axis=1) for model, of in copied()[1].items()}
    apart = means["dense"] - means["peer"]
    for k, of in enumerate(("all targets", "repeated ones", "new ones")):
        dense, peer = means["dense"][k], means["peer"][k]
        print(f"{of}: dense {dense:.3f}, peer {peer:.3f}, {apart[k]:.3f} apart")
