"""The files of an ablation, in a folder beside the run: NAME.json, and tables as CSV."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.inspection.ablation.intervals import LEVEL, Estimate
from experiments.inspection.ablation.result import Ablation, Row
from experiments.system.csv_text import to_csv
from experiments.system.regular_files import MOST, regular
from experiments.system.several_files import NotWholeError, read_list, settle, write_together

_PARTS = ("chosen", "random", "excess")
_AGAIN = "the question is asked again"


def name_of(identity: Mapping[str, Any]) -> str:
    """Of the files: what was asked, as a hash, so that no ablation takes another's place."""
    text = json.dumps(identity, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def write_ablation(folder: Path, result: Ablation, identity: Mapping[str, Any]) -> Path:
    """Writes NAME.csv, a line a row; NAME.units.csv, a line a unit; and NAME.json, which lists
    both. Returns its path.
    """
    name = name_of(identity)
    content = {
        "identity": identity,
        "layer": result.layer,
        "experts": {key: list(own) for key, own in result.experts.items()},
        "n_draws": result.n_draws,
        "mass_ratio": result.mass_ratio,
        "unit": result.unit,
        "level": LEVEL,
        "rows": [asdict(row) for row in result.rows],
    }
    path = folder / f"{name}.json"
    files = {f"{name}.csv": to_csv(rows_frame(result)), _units(name): to_csv(result.units)}
    write_together(path, content, files)
    return path


def _units(name: str) -> str:
    return f"{name}.units.csv"


def read_ablation(folder: Path, identity: Mapping[str, Any]) -> Ablation | None:
    """The answer that was written of it; None if nothing was. Raises NotWholeError for what is
    not as it was written.
    """
    name = name_of(identity)
    path = folder / f"{name}.json"
    settle(path)
    if not path.exists():
        return None
    try:
        listed = read_list(path)
        content = listed.values
        rows = [
            Row(
                what=row["what"],
                n_units=row["n_units"],
                **{part: Estimate(**row[part]) for part in _PARTS},
            )
            for row in content["rows"]
        ]
        if wrong := listed.wrong():
            raise NotWholeError(folder, wrong, _AGAIN)
        return Ablation(
            layer=content["layer"],
            experts={key: tuple(own) for key, own in content["experts"].items()},
            n_draws=content["n_draws"],
            mass_ratio=content["mass_ratio"],
            unit=content["unit"],
            rows=tuple(rows),
            units=pd.read_csv(regular(folder / _units(name), MOST)),
        )
    except NotWholeError:
        raise
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise NotWholeError(folder, {path.name: f"is no ablation ({error})"}, _AGAIN) from None


def rows_frame(result: Ablation) -> pd.DataFrame:
    """A line a row: value, low and high of each part."""
    lines = []
    for row in result.rows:
        line: dict[str, Any] = {"what": row.what, "n_units": row.n_units}
        for part in _PARTS:
            estimate = getattr(row, part)
            low, high = estimate.interval()
            line |= {part: estimate.value, f"{part}_low": low, f"{part}_high": high}
        lines.append(line)
    return pd.DataFrame(lines)


def rows_table(result: Ablation) -> list[tuple[str, ...]]:
    """Rows of text, the head first."""

    def shown(estimate: Estimate) -> str:
        low, high = estimate.interval()
        return f"{estimate.value:+.4f} [{low:+.4f}, {high:+.4f}]"

    head = ("", f"{result.unit}s", "without the chosen", "without random ones", "difference")
    rows = [
        (row.what, f"{row.n_units:,}", *(shown(getattr(row, part)) for part in _PARTS))
        for row in result.rows
    ]
    return [head, *rows]
