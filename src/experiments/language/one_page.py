"""One run for a reader at a terminal: what it is, where it stands, its curve, its place among the
others of its sweep, and what can be typed next. Nothing is planned or loaded: no torch.

All texts of a run's files may be a stranger's; they are printed without control characters.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.config.hydra_hints import choice_names
from experiments.records.files import CHECKPOINT_NAME, RECORD_NAME, DamagedError, read_record
from experiments.records.record import RunRecord
from experiments.sweep.manifest import FLOPS, Entry
from experiments.sweep.page.curves import Curves
from experiments.sweep.progress import read_progress
from experiments.sweep.states import PointState, SweepState, read_sweep
from experiments.sweep.status_table import states_text
from experiments.system.plain_text import printable, shortened
from experiments.system.text_plot import plotted
from experiments.system.text_table import aligned, count, duration

_POINTS, _LONGEST = 60, 60  # losses of a curve; characters of a setting
_NO_SETTINGS = ("sweep", "dry_run", "verbose", "retry", "paths", "model_name")  # where, not what
_ABSENT = "-"


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A run, as its files have it. record: None without one that can be read."""

    run_dir: Path
    state: PointState
    entry: Entry
    record: RunRecord | None
    sweep: SweepState

    @property
    def config(self) -> dict[str, Any]:
        """Resolved config; empty where neither record nor manifest has one."""
        return self.entry.raw if self.record is None else self.record.config


def read_shown(run_dir: Path) -> Shown:
    """Raises ValueError for a folder that is no run's."""
    if not run_dir.parent.is_dir():
        raise ValueError(f"{run_dir} is not a run: it is not there; {_remedy(run_dir.parent)}")
    try:
        sweep = read_sweep(run_dir.parent)
    except ValueError:
        raise ValueError(f"{run_dir} is not a run of a sweep; {_remedy(run_dir)}") from None
    own = {p.run_id: (p, entry) for p, entry in zip(sweep.points, sweep.entries, strict=True)}
    if run_dir.name not in own:
        raise ValueError(f"{run_dir} is not a run of {run_dir.parent}; {_remedy(run_dir.parent)}")
    state, entry = own[run_dir.name]
    if entry.unit != FLOPS:
        raise ValueError(
            f"{run_dir} is of an app that trains no language model; experiments.status and "
            "experiments.collect read it"
        )
    try:
        record = read_record(run_dir / RECORD_NAME)
    except (FileNotFoundError, NotADirectoryError, DamagedError, OSError):
        record = None
    return Shown(run_dir=run_dir, state=state, entry=entry, record=record, sweep=sweep)


def _remedy(folder: Path) -> str:
    return (
        "name the folder of one, results/<sweep>/<run_id>; python -m experiments.status "
        f"{shlex.quote(str(folder))} lists the runs of a sweep"
    )


def shown_text(shown: Shown, defaults: Mapping[str, Any]) -> str:
    """Whole page. defaults: config of a run of the same model where nothing else is given."""
    parts = [
        [f"{shown.state.label}", f"{shown.run_dir}"],
        aligned(list(_facts(shown)), 2),
        _curve(shown),
        _settings(shown, defaults),
        [*_place(shown), *(f"note: {note}" for note in shown.sweep.notes)],
        ["next:", *(f"  {line}" for line in commands(shown))],
    ]
    return "\n\n".join("\n".join(map(printable, part)) for part in parts if part)


def _facts(shown: Shown) -> Iterator[tuple[str, str]]:
    state, record = shown.state, shown.record
    progress = read_progress(shown.run_dir)
    why = f": {state.detail}" if state.detail else ""
    yield "state", shortened(f"{state.state}{why}", 300)
    yield from _losses(shown, progress)
    if record is not None:
        yield "parameters", f"{count(record.n_params)}, {count(record.n_active_params)} active"
        per_token, n_tokens = record.flops_per_token, float(record.n_tokens)
        epochs = "" if record.epochs is None else f", {record.epochs:.2g} epochs"
    else:
        n_params, seen = state.n_params, progress.get("n_tokens", 0)
        if n_params is not None:
            yield "parameters", count(n_params)
        per_token = progress["flops"] / seen if seen and "flops" in progress else 0.0
        n_tokens, epochs = float(seen), ""
    if per_token:
        yield "FLOPs/token", f"{count(per_token)} in training"
    if n_tokens:
        yield "tokens", f"{count(n_tokens)}{epochs}"
    yield "steps", f"{state.step} of {state.n_steps or '?'}"
    budget = shown.config.get("budget")
    if isinstance(budget, int | float):
        yield "budget", f"{budget:.3g} FLOPs, {state.done_flops:.3g} done"
    if record is not None and record.wall_seconds is not None:
        speed = record.tokens_per_second
        rate = "" if speed is None else f", {count(speed)} tokens/s in training"
        yield "time", f"{duration(record.wall_seconds)}{rate}"
    elif state.seconds_left is not None and state.tokens_per_second is not None:
        speed_now = count(state.tokens_per_second)
        yield "time", f"{duration(state.seconds_left)} left, {speed_now} tokens/s"
    if state.log is not None:
        yield "log", state.log


def _losses(shown: Shown, progress: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    record = shown.record
    if record is not None and record.val_loss is not None:
        bits = "" if record.bits_per_byte is None else f", {record.bits_per_byte:.3f} bits/byte"
        causal = "" if record.causal_eval else "; it sees later tokens (expert choice)"
        yield "held-out loss", f"{record.val_loss:.4f} nats/token{bits}{causal}"
    if record is not None and record.train_loss is not None:
        yield "training loss", f"{record.train_loss:.4f}, of the last tenth"
    elif record is None and "loss" in progress:
        yield "training loss", f"{progress['loss']:.4f} now"


def _curve(shown: Shown) -> list[str]:
    curve = Curves().read(shown.run_dir, _POINTS, shown.entry.first_step)
    if curve is None:
        return []
    steps = [max(1, step) for step in curve.steps]
    drawn = plotted(steps, curve.losses, width=_POINTS, x_name="steps")
    return ["training loss, nats/token", *drawn]


def _settings(shown: Shown, defaults: Mapping[str, Any]) -> list[str]:
    """Settings that differ from the defaults, beside these; and those that no default has."""
    own, usual = dict(_leaves(shown.config)), dict(_leaves(defaults))
    rows = [
        (name, _value(value), _value(usual[name]) if name in usual else _ABSENT)
        for name, value in own.items()
        if (usual[name] != value if name in usual else value is not None)
    ]
    if not own:
        return ["settings: not known"]
    model = printable(str(shown.config.get("model_name", "?")))
    if not rows:
        return [f"settings: the defaults of model={model}"]
    head = ("setting", "here", f"default of model={model}")
    return aligned([head, *rows], 3)


def _leaves(node: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a config with its dotted name, but for those that say where its files are."""
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            if name or key not in _NO_SETTINGS:
                yield from _leaves(value, f"{name}.{key}" if name else str(key))
    elif name:
        yield name, list(node) if isinstance(node, tuple) else node


def _value(value: Any) -> str:
    words = {None: "null", True: "true", False: "false"}
    if isinstance(value, bool | None):
        return words[value]
    text = f"{value:.10g}" if isinstance(value, float) else str(value)
    return shortened(text, _LONGEST)


def _place(shown: Shown) -> list[str]:
    """Its sweep, and its rank by held-out loss among the finished runs of the same budget."""
    points, state = shown.sweep.points, shown.state
    name = shown.run_dir.parent.name
    lines = [f"sweep {name}: {len(points)} runs, {states_text(points)}"]
    budget = _budget(state)
    peers = sorted(
        (p for p in points if p.loss is not None and p.state == "done" and _budget(p) == budget),
        key=lambda p: p.loss or 0.0,
    )
    if len(peers) > 1 and budget:
        best = peers[0]
        place = [p.run_id for p in peers].index(state.run_id) + 1 if state in peers else None
        what = f"{len(peers)} finished runs of {budget}"
        lead = "" if place is None else f"place {place} of the "
        behind = (state.loss or 0.0) - (best.loss or 0.0)
        far = f"; {behind:.4f} behind it" if place is not None and place > 1 else ""
        lines.append(f"{lead}{what}, by held-out loss; the best: {_short(best)}{far}")
    return lines


def _budget(point: PointState) -> str:
    """Word of a label, as budget=1e+09; empty of a trunk."""
    return next((word for word in point.label.split() if word.startswith("budget=")), "")


def _short(point: PointState) -> str:
    return f"{point.label}, {point.loss:.4f}, {point.run_id}"


def commands(shown: Shown) -> list[str]:
    """What can be typed next."""
    run, folder = (shlex.quote(str(path)) for path in (shown.run_dir, shown.run_dir.parent))
    state, record = shown.state.state, shown.record
    if state == "running":
        return [f"python -m experiments.status {folder} --watch"]
    if state == "queued":
        return [f"python -m experiments.status {folder} --watch   # {shown.state.detail}"]
    if state in ("diverged", "hopeless"):
        again = f"python -m experiments.retry {folder} --run {shown.state.run_id} --diverged"
        return [f"{again}   # from the first step"]
    if state != "done" or record is None:
        return [f"python -m experiments.retry {folder} --run {shown.state.run_id}"]
    if not (shown.run_dir / CHECKPOINT_NAME).exists():
        return [f"python -m experiments.collect {folder}   # no checkpoint is here: records alone"]
    return list(_of_model(run, record))


def _of_model(run: str, record: RunRecord) -> Iterator[str]:
    """Commands that read a finished run's model."""
    scored = {label.partition("@")[0].partition("/")[0] for label in record.evaluations}
    sets = [name for name in choice_names("eval") if name not in scored]
    if sets:
        yield f"python -m experiments.evaluate {run} 'eval=[SET]'   # SET: {', '.join(sets)}"
    if record.causal_eval:
        yield f"python -m experiments.evaluate {run} 'tasks=[cloze]'"
        yield f'python -m experiments.generate {run} "The "'
    if record.n_experts is not None:
        yield f"python -m experiments.inspect {run}"
    yield f"python -m experiments.export {run} FOLDER"


def default_words(config: Mapping[str, Any], models: Sequence[str]) -> list[str]:
    """Overrides that make the defaults of a run's model; none for a model that conf/ lacks."""
    name = config.get("model_name")
    return [f"model={name}"] if name in models else []
