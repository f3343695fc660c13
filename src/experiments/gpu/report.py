"""Report on a card: report.json, and report.md made from it, after each measurement.

One process writes at a time: a part's own while it runs, and the command between parts.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from experiments.gpu.goals import Goal
from experiments.system.disk import make_folder, write_text_atomically
from experiments.system.text_table import markdown

JSON_NAME, TEXT_NAME = "report.json", "report.md"
RUNNING, DONE, FAILED, OVERTIME, LEFT_OUT = "running", "done", "failed", "out of time", "left out"
_TABLE = ("what", "measured", "goal", "met", "anchor")


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One number. anchor: what others reached, or a floor on paper. note: what it is made of."""

    name: str
    value: float
    unit: str = ""
    goal: Goal | None = None
    anchor: str = ""
    note: str = ""

    @property
    def met(self) -> bool | None:
        """None without a goal."""
        return None if self.goal is None else self.goal.met(self.value)

    def as_json(self) -> dict[str, Any]:
        """Plain values; what is no number (nan, inf) as text, which JSON has no other way for."""
        finite = math.isfinite(self.value)
        return {
            **asdict(self),
            "value": self.value if finite else str(self.value),
            "met": self.met,
        }


class Report:
    """Report in a folder, which need not exist yet."""

    def __init__(self, folder: Path, about: Mapping[str, Any] | None = None) -> None:
        """about: card and versions, of a report that is begun. Raises ValueError for a file that
        is not a report.
        """
        self.folder = folder
        path = folder / JSON_NAME
        self.content: dict[str, Any] = {"about": {}, "parts": {}}
        if path.exists():
            try:
                self.content = json.loads(path.read_text(encoding="utf-8"))
                self.parts.items()
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{path} is not a report ({error}); remove it") from None
        if about is not None:
            self.content["about"] = dict(about)

    @property
    def parts(self) -> dict[str, dict[str, Any]]:
        """By name: status, when it began, seconds, why, commit, facts, measurements."""
        return self.content["parts"]

    def begin(self, part: str) -> None:
        """Forgets what the part found before."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        commit = self.content["about"].get("commit")  # of other parts it may be another
        entry = {"status": RUNNING, "began": now, "commit": commit}
        self.parts[part] = {**entry, "facts": {}, "measurements": []}
        self.save()

    def add(self, part: str, measurement: Measurement) -> None:
        """Kept on disk before the next one is made."""
        self.parts[part]["measurements"].append(measurement.as_json())
        self.save()

    def note(self, part: str, **facts: Any) -> None:
        """Notes whatever is no measurement: versions, sizes, every single case."""
        self.parts[part]["facts"].update(facts)
        self.save()

    def end(self, part: str, status: str, seconds: float, why: str = "") -> None:
        """A part that found something wrong has failed, whatever its process says."""
        entry = self.parts[part]
        wrong = [
            m["name"]
            for m in entry["measurements"]
            if m["goal"] and m["goal"]["must"] and not m["met"]
        ]
        if status == DONE and wrong:
            status, why = FAILED, f"wrong: {'; '.join(wrong)}"
        entry.update(status=status, seconds=round(seconds, 1), why=why)
        self.save()

    def save(self) -> None:
        """Both files, each whole or as it was."""
        make_folder(self.folder)
        text = json.dumps(self.content, indent=1, ensure_ascii=False, allow_nan=False)
        write_text_atomically(self.folder / JSON_NAME, text + "\n", durable=False)
        write_text_atomically(
            self.folder / TEXT_NAME, "\n".join(self.lines()) + "\n", durable=False
        )

    def lines(self) -> list[str]:
        """Markdown: the card, how each part went, and each part's numbers."""
        about = self.content["about"]
        lines = [f"# GPU check: {about.get('card', 'unknown')}", ""]
        if about.get("toy"):
            lines += ["**Toy sizes on a CPU: no number here says anything about a GPU.**", ""]
        rest = (f"{k} {v}" for k, v in about.items() if k not in ("card", "toy") and v is not None)
        lines += [", ".join(rest), "", *self.summary(), ""]
        for name, entry in self.parts.items():
            lines += [f"## {name}", "", *_numbers(entry["measurements"])]
            facts = entry["facts"].items()
            lines += [
                f"- {key}: {_shown(value)}" for key, value in facts if value not in ({}, None)
            ]
            lines.append("")
        return lines[:-1]

    def summary(self) -> list[str]:
        """A Markdown table of the parts, a line each."""
        rows = [("part", "status", "seconds", "goals met", "commit")]
        for name, entry in self.parts.items():
            goals = [m["met"] for m in entry["measurements"] if m["met"] is not None]
            status = entry["status"] + (f": {entry['why']}" if entry.get("why") else "")
            met = f"{sum(goals)} of {len(goals)}" if goals else ""
            commit = (entry["commit"] or "")[:7]
            rows.append((name, _cell(status), f"{entry.get('seconds', '')}", met, commit))
        return markdown(rows)

    def verdict(self) -> list[str]:
        """Whether the card can be used, in a line; and what to send back."""
        wrong = [f"{name} ({entry['status']})" for name, entry in self.parts.items() if _bad(entry)]
        left_out = [name for name, e in self.parts.items() if e["status"] == LEFT_OUT]
        seen = [name for name, e in self.parts.items() if e["status"] == DONE]
        said = f"no: {', '.join(wrong)}" if wrong else f"yes, by {', '.join(seen) or 'no part'}"
        if left_out:
            said += f"; not seen: {', '.join(left_out)}"
        files = f"{self.folder / JSON_NAME} and {TEXT_NAME} beside it"
        return [f"verdict: {said}", f"send back: {files} (docs/gpu-check.md)"]

    def table(self) -> list[str]:
        """A Markdown table of every number that has a goal or an anchor: the one in the docs."""
        rows: list[tuple[str, ...]] = [("part", *_TABLE)]
        for name, entry in self.parts.items():
            for m in entry["measurements"]:
                if m["goal"] or m["anchor"]:
                    rows.append((name, *_row(m)))
        return markdown(rows)


def _bad(entry: Mapping[str, Any]) -> bool:
    return entry["status"] in (FAILED, OVERTIME)


def card_folder(card: str) -> str:
    """A card's name as a folder's: NVIDIA H100 80GB HBM3 to nvidia-h100-80gb-hbm3."""
    return re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-")


def _numbers(measurements: Sequence[Mapping[str, Any]]) -> list[str]:
    if not measurements:
        return []
    lines = markdown([_TABLE, *(_row(m) for m in measurements)])
    notes = [f"- {m['name']}: {m['note']}" for m in measurements if m["note"]]
    return [*lines, "", *notes, *([""] if notes else [])]


def _row(m: Mapping[str, Any]) -> tuple[str, ...]:
    goal = Goal(**m["goal"]).describe() if m["goal"] else ""
    met = {None: "", True: "yes", False: "**no**"}[m["met"]]
    return (_cell(m["name"]), f"{_shown(m['value'])} {m['unit']}".strip(), goal, met, m["anchor"])


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())


def _shown(value: Any) -> str:
    """Four digits of a number; a list's or mapping's entries in one line."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        if isinstance(value, Mapping):
            return ", ".join(f"{key} {_shown(each)}" for key, each in value.items())
        if isinstance(value, list):
            return "; ".join(map(_shown, value))
        return _cell(str(value))
    if isinstance(value, int) or abs(value) >= 10_000:
        return f"{value:,.0f}"
    return f"{value:.4g}"
