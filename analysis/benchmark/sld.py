"""`python -m analysis.benchmark sld FOLDER`: laws asked of rows that they were not fitted to.

A task is a table of rows to fit, FOLDER/NAME_fit.csv or NAME_train.csv, and one of hidden rows
beside it, NAME_hidden.csv, NAME_test.csv or NAME_held.csv (or .parquet); the columns are SLDBench's
(Lin et al., arXiv:2507.21184). Each value of the column `group` is fitted apart. Where there are no
hidden rows the fifth of the largest is withheld. What is fitted is what the analysis chooses by
itself, of the fit rows alone: by their AICc, and by what each form says of edges of them that it
was fitted without. R^2 is of all hidden rows together, as there.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.benchmark.task import Answer, Task
from analysis.benchmark.tasks import find_tasks
from analysis.fitting.hold_out import largest
from analysis.fitting.intervals import Array
from analysis.fitting.text import in_columns
from analysis.table.sources import read_source

_FIT, _HIDDEN = ("fit", "train"), ("hidden", "test", "held")
_NOTHING = pd.DataFrame()
_SHARE = 0.2  # withheld where no rows are hidden


class Published(NamedTuple):
    """R^2 on the hidden rows of SLDBench: its human experts', and the best of its leaderboard that
    was looked up, with who; None where it was not.
    """

    human: float
    best: float | None = None
    who: str = ""


# human: README of its Harbor adapter ("Oracle Results"), harborframework/parity-experiments; best:
# pages of linhaowei1.github.io/scaling_law_discovery, the best of five runs. Read 2026-12-02.
PUBLISHED = {
    "data_constrained_scaling_law": Published(0.911, 0.943, "mini-swe-agent, GPT-5"),
    "domain_mixture_scaling_law": Published(0.671),
    "easy_question_scaling_law": Published(-1.0),
    "lr_bsz_scaling_law": Published(-0.076),
    "moe_scaling_law": Published(0.703, 0.962, "SLDAgent, GPT-5"),
    "parallel_scaling_law": Published(1.0),
    "sft_scaling_law": Published(0.957),
    "vocab_scaling_law": Published(0.966, 0.989, "SLDAgent, GPT-5"),
}


def score(measured: Array, answer: Answer) -> dict[str, float]:
    """R^2, and errors as shares of those of the mean: NMSE of squares, NMAE of sizes; inside: the
    share of intervals of a new run that hold what was measured, and their median width in its unit.
    """
    value, low, high = (np.asarray(v, dtype=np.float64) for v in answer.predicted[:3])
    off, about = value - measured, measured - measured.mean()
    nmse = float((off**2).sum() / (about**2).sum())
    return {
        "n_hidden": len(measured),
        "r2": 1 - nmse,
        "nmse": nmse,
        "nmae": float(np.abs(off).sum() / np.abs(about).sum()),
        "inside": float(((low <= measured) & (measured <= high)).mean()),
        "width": float(np.median(high - low)),
    }


def answer_task(task: Task, fit: pd.DataFrame, hidden: pd.DataFrame) -> tuple[Array, Answer]:
    """Losses measured in the hidden rows, and those predicted, group by group."""
    keys = "group" if "group" in fit and "group" in hidden else None
    groups = [(None, hidden)] if keys is None else list(hidden.groupby(keys, sort=False))
    parts, measured, said, chosen = [], [], [], []
    for name, rows in groups:
        own = fit if keys is None else fit[fit[keys] == name]
        if own.empty:
            raise ValueError(f"group={name!r} has hidden rows and no rows to fit")
        found = task.answer(own, rows)
        before = "" if len(groups) == 1 else f"group={name!r}: "
        parts.append(found.predicted)
        measured.append(rows[task.target].to_numpy(dtype=np.float64))
        said += [f"{before}{text}" for text in found.warnings]
        chosen.append(f"{before}{found.chosen}")
    joined = [np.concatenate([np.atleast_1d(p[i]) for p in parts]) for i in range(3)]
    predicted = parts[0]._replace(value=joined[0], lower=joined[1], upper=joined[2])
    whole = Answer(predicted=predicted, chosen="; ".join(chosen), warnings=tuple(said))
    return np.concatenate(measured), whole


def run(folder: Path) -> list[dict[str, Any]]:
    """A row a task. Raises ValueError for a folder without one, and for a table that can't be."""
    files = sorted(path for path in folder.iterdir() if path.suffix in (".csv", ".parquet"))
    to_fit = {path: end for path in files for end in _FIT if path.stem.endswith(end)}
    if not to_fit:
        raise ValueError(f"{folder} has no table to fit: NAME_fit.csv or NAME_train.csv")
    rows: list[dict[str, Any]] = []
    for path, end in to_fit.items():
        name = path.stem.removesuffix(end)
        beside = [p for p in files if p.stem in {f"{name}{other}" for other in _HIDDEN}]
        if len(beside) > 1:
            raise ValueError(f"hidden rows of {path.name} are in {len(beside)} files: keep one")
        rows.append({"task": name.strip("_-") or path.stem, **_of_table(path, beside)})
    return rows


def _of_table(path: Path, beside: list[Path]) -> dict[str, Any]:
    table = read_source(path).frame
    task = next((t for t in find_tasks() if not t.lacks(t.read(table))), None)
    if task is None:
        each = "; ".join(
            f"{t.name} lacks {', '.join(t.lacks(t.read(table)))}" for t in find_tasks()
        )
        return {"warnings": [f"not scored: no law is in {', '.join(map(str, table))}: {each}"]}
    fit, *own = _known(task, task.read(table), path)
    if beside:
        hidden = task.read(read_source(beside[0]).frame)
        if absent := task.lacks(hidden):
            return {"warnings": [f"not scored: {beside[0].name} lacks {', '.join(absent)}"]}
        hidden, *more = _known(task, hidden, beside[0])
        own += more
    else:
        own.append("no hidden rows: the largest of its own are withheld")
        out = largest(np.asarray(task.largest(fit), dtype=np.float64), _SHARE)
        fit, hidden = fit[~out], fit[out]
    if fit.empty or hidden.empty:
        return {"warnings": [f"not scored: {text}" for text in own]}
    try:
        measured, found = answer_task(task, fit, hidden)
    except ValueError as error:
        return {"warnings": [f"not scored: {error}", *own]}
    if np.ptp(measured) == 0:
        return {"warnings": [f"not scored: all {len(measured)} hidden losses are the same", *own]}
    published = next((PUBLISHED[name] for name in task.published if name in PUBLISHED), None)
    row = {
        "published": task.published,
        "n_fit": len(fit),
        **score(measured, found),
        "chosen": found.chosen,
    }
    if beside and published is not None:
        row |= {"human_r2": published.human, "best_r2": published.best}
    return {**row, "warnings": [*own, *found.warnings]}


def _known(task: Task, rows: pd.DataFrame, path: Path) -> tuple[pd.DataFrame, *tuple[str, ...]]:
    """Rows that have all that the task needs, and which column others lack."""
    empty = rows[[*task.needs]].isna()
    lacking = [f"{name} ({n} of {len(rows)})" for name, n in empty.sum().items() if n]
    text = f"{path.name}: rows without {', '.join(lacking)} are left out"
    return rows[~empty.any(axis=1)], *([text] if lacking else [])


def _absent(rows: list[dict[str, Any]]) -> list[str]:
    """A line for each published task of which no table was scored: what it needs."""
    by_name = {name: task for task in find_tasks() for name in task.published}
    scored = {name for row in rows for name in row.get("published", ())}
    return [
        f"{name}: no table of it was scored: it needs {', '.join(by_name[name].lacks(_NOTHING))}"
        if name in by_name
        else f"{name}: not scored: no law here is in its columns"
        for name in PUBLISHED
        if name not in scored
    ]


def main(typed: list[str]) -> None:
    """Prints a row a task, then what was chosen and warned of."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.benchmark sld", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("folder", type=Path, help="of tables NAME_fit.csv with NAME_hidden.csv")
    options = parser.parse_args(typed)
    if not options.folder.is_dir():
        sys.exit(f"error: {options.folder} is no folder")
    try:
        rows = run(options.folder)
    except ValueError as error:
        sys.exit(f"error: {error}")
    hide = ("warnings", "chosen", "published")
    shown = [{k: v for k, v in row.items() if k not in hide} for row in rows if "r2" in row]
    if shown:
        print(in_columns(pd.DataFrame(shown).astype(object).fillna("")))
    for row in rows:
        print(f"\n{row['task']}: by {row['chosen']}" if "chosen" in row else f"\n{row['task']}:")
        for text in row["warnings"]:
            print(f"  warning: {text}")
    print("", *_absent(rows), sep="\n")
