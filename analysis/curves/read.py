"""Histories to fit: of a sweep's folder, or of a CSV with a row a point of a run's curve."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.curves.history import History, check_steps
from analysis.fitting.text import join_first, pluralize
from analysis.settings import setting
from analysis.table.checks import finished
from analysis.table.histories import history_paths, read_history
from experiments.records.record import RunRecord

COLUMNS = ("run", "step", "loss", "lr")
_LONGEST_GAP = 0.1  # of a run's steps, between two rows
_FEWEST = 10  # rows
_HIGHEST = 1e6  # of a loss, or of a perplexity
_NAMING = ("budget", "seed")  # beside a config's optim, what tells the runs of a series apart


def histories_of_sweep(
    table: pd.DataFrame, records: Sequence[RunRecord], folder: Path
) -> tuple[list[History], list[str]]:
    """Histories of the finished runs of a sweep's table, and why others have none.

    A series is the table's, of one size and batch. A run is named by what differs in the optimizer,
    the budget and the seed of its series' runs. Steps are the middle of what a row's loss is the
    mean of, and rates are of there: a row of history.csv has the rate of the step after it.
    """
    done, paths = finished(table), history_paths(folder)
    by_id = {record.run_id: record for record in records}
    several = len({record.batch_tokens for record in records}) > 1
    groups: dict[str, list[str]] = {}
    for series, run_id in zip(done["series"], done["run_id"].astype(str), strict=True):
        record = by_id[run_id]
        name = f"{series} {record.n_layers} blocks of {record.d_model}"
        name += f", batches of {record.batch_tokens}" if several else ""
        groups.setdefault(name, []).append(run_id)
    found, left_out = [], []
    for name, ids in groups.items():
        names = _names({run_id: by_id[run_id] for run_id in ids})
        for run_id in ids:
            if run_id not in paths:
                left_out.append(run_id)
                continue
            rows = read_history(paths[run_id], ("step", "loss", "lr"))
            found.append(_centred(names[run_id], name, rows, paths[run_id]))
    texts = []
    if left_out:
        texts = [
            f"{pluralize(len(left_out), 'run')} without a whole history.csv: {join_first(left_out)}"
        ]
    if not found:
        raise ValueError(
            f"no finished run below {folder} has a history.csv; a sweep that was copied by its "
            "records alone has none: take the folder where it ran, or a CSV of columns "
            f"{', '.join(COLUMNS)}"
        )
    return found, texts


def _centred(run: str, series: str, rows: pd.DataFrame, path: Path) -> History:
    step, rate = rows["step"].to_numpy(), rows["lr"].to_numpy()
    before = np.concatenate([[0.0], step[:-1]])
    middle = (before + step + 1) / 2
    of_middle = np.concatenate([[rate[0] * middle[0] / (step[0] + 1)], (rate[:-1] + rate[1:]) / 2])
    of_middle[-1] = rate[-2] if len(rate) > 1 else rate[-1]  # no step has the last row's
    return checked(run, series, middle, of_middle, rows["loss"].to_numpy(), str(path))


def _names(records: Mapping[str, RunRecord]) -> dict[str, str]:
    """run id -> its name among these."""
    settings = {run_id: _settings(record) for run_id, record in records.items()}
    keys = dict.fromkeys(key for values in settings.values() for key in values)
    differ = [key for key in keys if len({str(v.get(key)) for v in settings.values()}) > 1]
    names = {
        run_id: " ".join(f"{key}={_shown(values.get(key))}" for key in differ) or run_id
        for run_id, values in settings.items()
    }
    given = list(names.values())
    return {
        run_id: name if given.count(name) == 1 else f"{name} {run_id}"
        for run_id, name in names.items()
    }


def _settings(record: RunRecord) -> dict[str, Any]:
    optim = record.config.get("optim")
    of_optim = optim if isinstance(optim, dict) else {}
    return {name: getattr(record, name) for name in _NAMING} | of_optim


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def histories_of_table(
    frame: pd.DataFrame,
    *,
    columns: Mapping[str, str] | None = None,
    series: Sequence[str] | None = None,
    where: Mapping[str, Sequence[str]] | None = None,
) -> list[History]:
    """Histories of a CSV with columns run, step, loss and lr, and perhaps series.

    columns: our name -> the frame's; series: the columns whose values name one, by default
    `series`, and without it all runs are of one. Runs of two series may have one name. where: the
    values, as text, that a row has.
    """
    for name, values in (where or {}).items():
        if name not in frame:
            raise ValueError(
                f"{setting('where')}: {name!r} is no column; found {', '.join(map(str, frame))}"
            )
        frame = frame[frame[name].astype(str).isin(list(values))]
        if frame.empty:
            raise ValueError(f"{setting('where')}: no row has {name}={','.join(values)}")
    given = {name: (columns or {}).get(name, name) for name in (*COLUMNS, "series")}
    absent = [name for name in COLUMNS if given[name] not in frame]
    if absent:
        asked = setting("columns", dict.fromkeys(absent, "MY_NAME"))
        raise ValueError(
            f"no column {' or '.join(absent)}; found {', '.join(map(str, frame))}; say which they "
            f"are: {asked}"
        )
    nameless = frame[given["run"]].isna()
    if nameless.any():
        first = frame.index[int(nameless.to_numpy().argmax())]
        raise ValueError(f"{first}: run is empty; name each run, or leave its rows out")
    named = series if series is not None else [given["series"]] if given["series"] in frame else []
    for name in named:
        if name not in frame:
            raise ValueError(
                f"{setting('series')}: {name!r} is no column; found {', '.join(map(str, frame))}"
            )
    label = frame[named].astype(str).agg(" ".join, axis=1) if named else "all"
    frame = frame.assign(_series=label)
    found = []
    for (of_series, run), rows in frame.groupby(["_series", given["run"]], sort=False):
        step, loss, rate = (_numbers(rows[given[name]], name) for name in ("step", "loss", "lr"))
        found.append(checked(str(run), str(of_series), step, rate, loss, f"run {run}"))
    return found


def _numbers(column: pd.Series, name: str) -> np.ndarray:
    found = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(found))
    if bad.size:
        raise ValueError(
            f"{column.index[bad[0]]}: {name}={column.iloc[bad[0]]} is no finite number; a run that "
            "diverged has no law: leave its rows out"
        )
    return found


def checked(
    run: str, series: str, step: np.ndarray, rate: np.ndarray, loss: np.ndarray, what: str
) -> History:
    """A history whose numbers make sense. Raises ValueError naming `what` it is."""
    if len(step) < _FEWEST:
        raise ValueError(f"{what} has {pluralize(len(step), 'row')}; a curve needs {_FEWEST}")
    falls = np.flatnonzero(np.diff(step) <= 0)
    if falls.size:
        at = step[falls[0] + 1]
        raise ValueError(
            f"{what}: step {at:g} comes after step {step[falls[0]]:g}; are two runs mixed? Sort "
            "the rows, and name each run once"
        )
    gaps = np.diff(step)
    if gaps.max() > max(_LONGEST_GAP * step[-1], 0) and gaps.max() > 3 * np.median(gaps):
        i = int(gaps.argmax())
        raise ValueError(
            f"{what} has no row between steps {step[i]:g} and {step[i + 1]:g}, and its rates there "
            "are not known; fill the gap, or leave the run out"
        )
    if step[0] < 0 or (rate < 0).any() or not (rate > 0).any():
        raise ValueError(f"{what}: steps and rates must be 0 or more, and some rates above 0")
    check_steps(step[-1], what)
    if not ((loss > 0) & (loss < _HIGHEST)).all():
        raise ValueError(f"{what}: losses must be above 0, and below {_HIGHEST:g}")
    return History(run=run, series=series, step=step, rate=rate, loss=loss)


def by_series(histories: Iterable[History]) -> dict[str, list[History]]:
    found: dict[str, list[History]] = {}
    for one in histories:
        found.setdefault(one.series, []).append(one)
    return found
