"""How lm-evaluation-harness' tasks are asked, by its own options, and its files of results."""

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.system.disk import (
    OTHER_FOLDER,
    check_writable,
    followed,
    make_folder,
    write_text_atomically,
)

OPTIONS = ("num_fewshot", "limit", "log_samples", "output_path")
_YES_NO = {"true": True, "false": False}
_NOT_WRITTEN = ("samples", "pretty_env_info")


@dataclass(frozen=True, kw_only=True)
class HarnessRule:
    """num_fewshot: examples before each question; None: as the task says. limit: questions of each
    task, or a share of them below 1; None: all. output: where its files go; samples: each
    question with its answers too.
    """

    num_fewshot: int | None = None
    limit: int | float | None = None
    output: Path | None = None
    samples: bool = False

    @property
    def suffix(self) -> str:
        """End of a task's name in a record; empty for the task as it is."""
        given = [("num_fewshot", self.num_fewshot), ("limit", self.limit)]
        said = ",".join(f"{name}={value}" for name, value in given if value is not None)
        return f"@{said}" if said else ""


def read_rule(given: Mapping[str, str]) -> HarnessRule:
    """Rule of a command's words. Raises ValueError for values of another kind, and for samples
    without a place; RuntimeError for a place that can't be written.
    """
    shots, limit, samples, output = (given.get(name) for name in OPTIONS)
    if shots is not None and not (shots.isascii() and shots.isdecimal()):
        raise ValueError(f"num_fewshot={shots} must be a whole number of at least 0")
    if samples is not None and samples.lower() not in _YES_NO:
        raise ValueError(f"log_samples={samples} must be true or false")
    wanted = _YES_NO[(samples or "false").lower()]
    if wanted and output is None:
        raise ValueError("log_samples=true needs a place for them; give output_path=FOLDER too")
    folder = None if output is None else followed(Path(output).expanduser())
    if folder is not None:
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"output_path={output} is a file; name a folder")
        check_writable(folder, OTHER_FOLDER)
    return HarnessRule(
        num_fewshot=None if shots is None else int(shots),
        limit=None if limit is None else _limit(limit),
        output=folder,
        samples=wanted,
    )


def _limit(text: str) -> int | float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not (0 < value < 1 or (value >= 1 and value == int(min(value, 1e9)))):
        raise ValueError(
            f"limit={text} must be a number of questions, or a share of them between 0 and 1"
        )
    return value if value < 1 else int(value)


def write_results(folder: Path, run_id: str, found: Mapping[str, Any]) -> list[Path]:
    """Writes what lm_eval.evaluate found as its own command does; returns the paths.

    results_<date>.json, and of found["samples"] a samples_<task>_<date>.jsonl a task.
    """
    from lm_eval.utils import handle_non_serializable

    def dumped(value: Any, indent: int | None = None) -> str:
        return json.dumps(value, indent=indent, default=handle_non_serializable, ensure_ascii=False)

    date = time.strftime("%Y-%m-%dT%H-%M-%S")
    values = {key: value for key, value in found.items() if key not in _NOT_WRITTEN}
    values["config"] = {"model": "experiments", "model_args": {"run_id": run_id}}
    texts = {f"results_{date}.json": dumped(values, 2) + "\n"}
    for task, rows in (found.get("samples") or {}).items():
        plain = re.sub(r"[^\w.-]", "_", task)
        texts[f"samples_{plain}_{date}.jsonl"] = "".join(f"{dumped(row)}\n" for row in rows)
    make_folder(folder)
    for name, text in texts.items():
        write_text_atomically(folder / name, text, then=OTHER_FOLDER)
    return [folder / name for name in texts]
