"""A made-up sweep of many points on disk, of the files and sizes that a real one leaves."""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from experiments.config.composed import composed
from experiments.records.files import RECORD_NAME, write_record
from experiments.records.record import RunRecord
from experiments.sweep import manifest

MODELS = ("dense", "moe", "pkm", "peer")
_SIZES, _BUDGETS = 10, 5
_STATES = ("failed", "diverged", "interrupted", "killed", "waiting", "waiting")  # of every 100
_N_DAMAGED = 2
_BATCH = 1024  # tokens
_START = datetime(2026, 1, 1, tzinfo=UTC)


def make_sweep(folder: Path, n_points: int) -> None:
    """Writes folder/manifest.jsonl and a folder a point: 94 % done, the others in other states, and
    two records cut short. Losses are on a surface of parameters and tokens, with noise.
    """
    raws = {model: _raw(model, folder) for model in MODELS}
    entries = []
    for number, record in enumerate(_records(raws, folder.name, n_points)):
        entries.append(
            manifest.Entry(
                run_id=record.run_id,
                label=f"{record.model} size={record.n_layers} budget={record.budget:g} "
                f"seed={record.seed}",
                planned_flops=record.planned_flops,
                n_steps=record.n_steps,
                code="0" * 12,
                config=json.dumps(record.config),
            )
        )
        place = number % 100
        state = _STATES[place - 1] if 1 <= place <= len(_STATES) else "done"
        _write_run(folder / record.run_id, record, state)
        if 10 <= number < 10 + _N_DAMAGED:
            path = folder / record.run_id / RECORD_NAME
            path.write_bytes(path.read_bytes()[:-2000])
    manifest.add(folder, entries)


def _raw(model: str, folder: Path) -> dict[str, Any]:
    """Config that Hydra composes from conf/ for a model."""
    overrides = [
        f"model={model}",
        "data=packages",
        f"sweep={folder.name}",
        f"paths.results={folder.parent}",
    ]
    return composed(overrides)


def _records(raws: dict[str, Any], sweep: str, n_points: int) -> Iterator[RunRecord]:
    """Models, budgets and sizes in turn, then the next seed."""
    rng = np.random.default_rng(0)
    for number in range(n_points):
        model = MODELS[number % len(MODELS)]
        rest, size = divmod(number // len(MODELS), _SIZES)
        seed, budget = rest // _BUDGETS, 1e12 * 10 ** (rest % _BUDGETS / 2)
        yield _record(raws[model], sweep, model, 1 + size, budget, seed, rng.normal(0, 0.003))


def _record(
    raw: dict[str, Any],
    sweep: str,
    model: str,
    size: int,
    budget: float,
    seed: int,
    noise: float,
) -> RunRecord:
    d_model = 16 * size
    n_active = 12 * size * d_model**2 + 4096 * d_model
    flops_per_token = 6.0 * n_active
    n_steps = max(1, round(budget / (flops_per_token * _BATCH)))
    n_tokens = n_steps * _BATCH
    loss = 1.7 + 8 / n_active**0.12 + 250 / n_tokens**0.35 + noise
    loss -= 0.02 * MODELS.index(model)
    scores = {
        "loss": loss + 0.3, "perplexity": math.exp(loss + 0.3), "bits_per_byte": loss / 2,
        "bytes_per_token": 2.9, "n_tokens": 131072, "causal": True, "seq_len": 256, "stride": 256,
        "max_tokens": 131072, "batch_size": 4, "tokens_digest": "0" * 64,
    }  # fmt: skip
    config = {**raw, "size": size, "budget": budget, "seed": seed}
    text = json.dumps([model, size, budget, seed])
    seconds = n_tokens * flops_per_token / 3e10
    n_experts = None if model == "dense" else 1024
    return RunRecord(
        run_id=hashlib.sha256(text.encode()).hexdigest()[:12], sweep=sweep, status="done",
        model=model, seed=seed, budget=budget, n_layers=size, d_model=d_model,
        n_experts=n_experts, n_params=n_active * (1 if n_experts is None else 4),
        n_active_params=n_active, n_non_embedding_params=n_active - 4096 * d_model,
        flops_per_token=flops_per_token, flops_shares={"head": 0.4, "ffn": 0.4, "attention": 0.2},
        planned_flops=n_tokens * flops_per_token, n_steps=n_steps, batch_tokens=_BATCH,
        n_tokens=n_tokens, lr=1e-3, causal_eval=True, achieved_flops=n_tokens * flops_per_token,
        epochs=n_tokens / 1e8, train_loss=loss, val_loss=loss, perplexity=math.exp(loss),
        bits_per_byte=loss / 2.9 / math.log(2), bytes_per_token=2.9, n_eval_tokens=196608,
        evaluations={f"set{i}@max_tokens=131072": scores for i in range(6)},
        tokenizer_sha256="0" * 64, train_digest="0" * 64, wall_seconds=seconds + 9,
        train_seconds=seconds, tokens_per_second=n_tokens / seconds, flops_per_second=3e10,
        peak_flops_per_second=1e11, mfu=0.3, peak_memory_bytes=500_000_000,
        started=_START.isoformat(timespec="seconds"),
        environment={
            "python": "3.11.7", "packages": {f"package-{i}": "1.2.3" for i in range(7)},
            "host": "vm", "device": "a processor", "n_threads": 1,
            "command": ["run.py", "experiment=made", "hydra.launcher.n_workers=2"],
            "git_commit": "0" * 40, "git_dirty": False, "kernel": None,
        },
        config=config,
    )  # fmt: skip


def _write_run(run_dir: Path, record: RunRecord, state: str) -> None:
    """A run's folder in that state; none if it waits."""
    if state == "waiting":
        return
    run_dir.mkdir(parents=True)
    events = [_event(0, "started"), _event(600, "interrupted", why="SIGTERM at step 9", step=9)]
    events += [_event(900, "started")]
    if state not in ("killed", "interrupted"):
        events.append(_event(3600, state))
        error = "Traceback (most recent call last):\n" + '  File "x.py"\n' * 20 + "OSError: made up"
        failed = state == "failed"
        write_record(run_dir, replace(record, status=state, error=error if failed else None))
    elif state == "interrupted":
        events.append(_event(1200, "interrupted", why="SIGTERM at step 19", step=19))
    row = {"step": 1, "n_tokens": _BATCH, "flops": 1e9, "loss": 4.0, "lr": 1e-3}
    row |= {"tokens_per_second": 2e4, "seconds": 9.0, "n_steps": record.n_steps, "updated": 1.7e9}
    texts = {
        "events.jsonl": "".join(json.dumps(event) + "\n" for event in events),
        "progress.json": json.dumps(row),
        "config.yaml": "size: 1\n", "environment.json": "{}\n", "log.txt": "", ".claim": "vm pid 1",
        "history.csv": "step\n",
    }  # fmt: skip
    for name, text in texts.items():
        (run_dir / name).write_text(text)


def _event(seconds: int, name: str, **details: Any) -> dict[str, Any]:
    time = (_START + timedelta(seconds=seconds)).isoformat(timespec="seconds")
    return {"event": name, "time": time, "by": "vm pid 1", **details}
