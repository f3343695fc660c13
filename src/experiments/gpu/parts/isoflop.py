"""Harness itself at 1e15 FLOPs; needs its wheels.

A small isoFLOP by `python -m experiments.run -m`. As many sizes as the time allows, all layers at
each, and the runs that are done are kept. One seed, WikiText-2 several times over, rates that were
tuned elsewhere: it shows that the harness trains on the card, not which layer is best.
"""

from pathlib import Path

from experiments.gpu.harness import load_records, read_error, run_harness, runs_folder
from experiments.gpu.job import Job, LeftOut

WORTH = 10
SECONDS = 600
LAYERS = ("dense", "none", "moe_fine", "pkm", "peer")
SIZES = (6, 4, 8)  # blocks; the middle one first
OVERRIDES = (
    "budget=1e15",
    "ladder.d_per_layer=64",
    "ladder.d_head=64",
    "ladder.batch_size=64",  # sequences of 256 tokens
    "hydra.launcher.n_workers=4",
    "hydra.launcher.points_per_gpu=4",  # models so small leave most of a card idle
)
# of a record, for fits elsewhere
_COLUMNS: tuple[str, ...] = (
    "model",
    "n_layers",
    "n_experts",
    "budget",
    "n_params",
    "n_active_params",
    "n_tokens",
    "val_loss",
    "bits_per_byte",
    "tokens_per_second",
    "mfu",
)
_LEAST_SECONDS = 50


def run(job: Job) -> None:
    """Raises LeftOut without the harness's packages, RuntimeError if a run failed."""
    folder = runs_folder(job)
    n_refused, unfinished = 0, []
    for size in (1,) if job.toy else SIZES:
        code = None
        if job.seconds_left() > _LEAST_SECONDS:
            code = _sweep(job, folder, size)
        if code is None:
            unfinished.append(f"size={size}")
        n_refused += bool(code)
    failed = _add(job, folder)
    if failed or n_refused:
        why = failed[0] if failed else "its last line says why"
        raise RuntimeError(f"{n_refused} sweeps ended with an error, {len(failed)} runs: {why}")
    if unfinished:
        raise LeftOut(f"the time was over before {', '.join(unfinished)}; call it again to go on")


def _sweep(job: Job, folder: Path, size: int) -> int | None:
    """Command's exit code; None if the time was over before it ended."""
    layers = ("dense", "peer") if job.toy else LAYERS
    words = ["-m", f"model={','.join(layers)}", f"size={size}", "sweep=isoflop"]
    try:
        return run_harness(job, folder, [*words, *(() if job.toy else OVERRIDES)])
    except LeftOut:
        return None


def _add(job: Job, folder: Path) -> list[str]:
    """Finished runs' losses and speeds; the failed ones' errors."""
    failed, rows = [], []
    for record in load_records(folder / "isoflop"):
        name = f"{record.model} size={record.n_layers}"
        if record.val_loss is None:
            failed.append(f"{name}: {read_error(record)}")
            continue
        rows.append({column: getattr(record, column) for column in _COLUMNS})
        speed = record.tokens_per_second or 0.0
        job.add(
            f"{name}: validation loss",
            record.val_loss,
            "nats/token",
            note=f"{record.n_params / 1e6:.3g} M parameters, {record.n_tokens / 1e6:.3g} M tokens, "
            f"{speed:,.0f} tokens/s beside the other runs",
        )
    job.note(table=rows)
    return failed
