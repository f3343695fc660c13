"""Values that the page's figures show: models, points, curves, and the lines that join
points of one model and budget.

A model is a label's first word, and the settings of its layer where these differ among points that
are else alike. Records, configs and manifests may be anybody's: what is no number of the right kind
is left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.sweep.manifest import Entry
from experiments.sweep.page.curves import Curve, Curves
from experiments.sweep.states import SweepState
from experiments.system.json_files import parse_json
from experiments.system.page.colours import MARKERS, model_colour, model_order, natural
from experiments.system.plain_text import printable, shortened

_SAMPLES, _LEAST, _MOST = 60_000, 12, 120  # losses of all curves together, and of one
_LONGEST = 120  # characters of a label
_LARGEST = 1e300


@dataclass(frozen=True, kw_only=True)
class _Submitted:
    """A point's config, as far as it is shown. n_experts: None without."""

    series: str
    budget: float | None
    n_experts: int | None


class PageData:
    """Reads what does not change once, for a page that is made again and again."""

    def __init__(self, sweep_dir: Path) -> None:
        self.sweep_dir = sweep_dir
        self._curves = Curves()
        self._known: dict[str, tuple[Entry, _Submitted]] = {}

    def read(self, sweep: SweepState) -> dict[str, Any]:
        """models: name, colour, marker. budgets: in FLOPs. points: of a model and a budget by their
        places, with n_params, loss (held out) or now (of training, where there is no other), and
        curve: steps, losses in thousandths of a nat, and FLOPs and tokens of a step. lines: places
        of points.
        """
        submitted = [self._submitted(entry) for entry in sweep.entries]
        models = _models(sweep.entries, submitted)
        places = {model["name"]: i for i, model in enumerate(models)}
        budgets = sorted({own.budget for own in submitted if own.budget is not None})
        n_most = max(_LEAST, min(_MOST, _SAMPLES // len(submitted)))
        points = []
        for point, entry, own in zip(sweep.points, sweep.entries, submitted, strict=True):
            curve = None
            if point.state != "waiting":
                run_dir = self.sweep_dir / point.run_id
                curve = self._curves.read(run_dir, n_most, entry.first_step)
            points.append(
                {
                    "label": shortened(printable(point.label), _LONGEST),
                    "state": point.state,
                    "model": places[own.series],
                    "budget": None if own.budget is None else budgets.index(own.budget),
                    "n_params": _positive(point.n_params),
                    "loss": _positive(point.loss),
                    "now": None if point.loss is not None or curve is None else curve.losses[-1],
                    "curve": None if curve is None else _plain(curve),
                }
            )
        lines = _lines(points, [own.n_experts for own in submitted])
        return {"models": models, "budgets": budgets, "points": points, "lines": lines}

    def _submitted(self, entry: Entry) -> _Submitted:
        known = self._known.get(entry.run_id)
        if known is None or known[0].config != entry.config or known[0].label != entry.label:
            known = self._known[entry.run_id] = entry, _read(entry)
        return known[1]


def _read(entry: Entry) -> _Submitted:
    try:
        config = parse_json(entry.config)
    except ValueError:
        config = {}
    layer = config.get("model")
    names = set(layer) if isinstance(layer, dict) else set()
    words = [word for word in entry.label.split(" ") if word.partition("=")[0] in names]
    optim = config.get("optim")
    is_trunk = isinstance(optim, dict) and optim.get("schedule") == "trunk"
    budget = None if is_trunk else _positive(config.get("budget"))
    n_experts = config.get("n_experts")
    return _Submitted(
        series=shortened(printable(" ".join([entry.model, *words])), _LONGEST),
        budget=budget,
        n_experts=n_experts if type(n_experts) is int else None,
    )


def _models(entries: Sequence[Entry], submitted: Sequence[_Submitted]) -> list[dict[str, str]]:
    """Each model's series, in order of model; those of one model differ by marker."""
    found = {own.series: entry.model for entry, own in zip(entries, submitted, strict=True)}
    order = model_order(found.values())
    series: dict[str, list[str]] = {}
    for name in sorted(found, key=natural):
        series.setdefault(found[name], []).append(name)
    return [
        {
            "name": name,
            "colour": model_colour(model, order),
            "marker": MARKERS[(rank + step) % len(MARKERS)],
        }
        for rank, model in enumerate(order)
        for step, name in enumerate(series.get(model, ()))
    ]


def _lines(
    points: Sequence[Mapping[str, Any]], n_experts: Sequence[int | None]
) -> list[dict[str, Any]]:
    """For each model and budget the places of the finished points with the lowest loss at their
    size, by size. A line of its own for each number of experts that has several sizes.
    """
    cells: dict[tuple[int, int], dict[int | None, dict[int, int]]] = {}
    for place, (point, n) in enumerate(zip(points, n_experts, strict=True)):
        if None in (point["budget"], point["n_params"], point["loss"]):
            continue
        own = cells.setdefault((point["model"], point["budget"]), {}).setdefault(n, {})
        least = own.setdefault(point["n_params"], place)
        if point["loss"] < points[least]["loss"]:
            own[point["n_params"]] = place
    lines = []
    for (model, budget), by_experts in cells.items():
        whole = [own for own in by_experts.values() if len(own) > 1]
        if not whole:
            whole = [{size: place for own in by_experts.values() for size, place in own.items()}]
        for own in whole:
            if len(own) > 1:
                at = [own[size] for size in sorted(own)]
                lines.append({"model": model, "budget": budget, "points": at})
    return lines


def _plain(curve: Curve) -> dict[str, Any]:
    return {
        "steps": curve.steps,
        "losses": [round(1000 * min(loss, 1e6)) for loss in curve.losses],
        "flops": float(f"{curve.flops:.6g}"),
        "tokens": float(f"{curve.n_tokens:.6g}"),
    }


def _number(value: Any) -> float | None:
    """A number that every reader of JSON has; None for anything else."""
    return float(value) if type(value) in (int, float) and abs(value) < _LARGEST else None


def _positive(value: Any) -> float | None:
    number = _number(value)
    return number if number is not None and number > 0 else None
