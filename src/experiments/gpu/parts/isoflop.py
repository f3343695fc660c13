"""The harness itself at 1e15 FLOPs; needs its wheels.

A small isoFLOP by `python -m experiments.run -m`. As many sizes as the time allows, all layers at
each, and the runs that are done are kept. One seed, WikiText-2 several times over, rates that were
tuned elsewhere: it shows that the harness trains on the card, not which layer is best.
"""

import os
import signal
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from experiments.gpu.job import Job, LeftOut
from experiments.records.record import RECORD_NAME, read_record

WORTH = 10
SECONDS = 600
NEEDED = ("hydra", "omegaconf", "lightning", "tokenizers")
CACHE = Path("wheels/cache")  # where `make gpu-wheels` puts the tokens
LAYERS = ("dense", "none", "moe_fine", "pkm", "peer")
SIZES = (6, 4, 8)  # blocks; the middle one first
DATA = ("data=wikitext2",)
OVERRIDES = (
    "budget=1e15",
    "ladder.d_per_layer=64",
    "ladder.d_head=64",
    "ladder.batch_size=64",  # sequences of 256 tokens
    "hydra.launcher.n_workers=4",
    "hydra.launcher.points_per_gpu=4",  # models so small leave most of a card idle
)
TOY = (
    "budget=5e9",
    "ladder.d_per_layer=16",
    "ladder.d_head=16",
    "ladder.batch_size=1",
    "data.n_eval_tokens=4096",
    "trainer.accelerator=cpu",
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
_LEAST_SECONDS, _TO_SAVE = 30, 20


def run(job: Job) -> None:
    """Raises LeftOut without the harness's packages, RuntimeError if a run failed."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise LeftOut(f"{', '.join(missing)} not installed: make gpu-wheels (docs/gpu-check.md)")
    # not beside the report, which a machine may take back few files with
    folder = Path(tempfile.gettempdir()).resolve() / "gpu-check" / job.report.folder.name
    job.note(runs=str(folder))
    n_refused, unfinished = 0, []
    for size in (1,) if job.toy else SIZES:
        code = None
        if job.seconds_left() > _LEAST_SECONDS + _TO_SAVE:
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
    """The command's exit code; None if the time was over before it ended."""
    layers = ("dense", "peer") if job.toy else LAYERS
    command = [sys.executable, "-m", "experiments.run", "-m", f"model={','.join(layers)}"]
    command += [f"size={size}", *DATA, *(TOY if job.toy else OVERRIDES), "logger=csv"]
    command += ["sweep=isoflop", f"paths.results={folder}"]
    environment = dict(os.environ)
    if CACHE.is_dir():
        environment.setdefault("EXPERIMENTS_CACHE", str(CACHE.resolve()))
    with subprocess.Popen(command, env=environment) as process:
        try:
            return process.wait(max(1.0, job.seconds_left() - _TO_SAVE))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)  # its runs save
    return None


def _add(job: Job, folder: Path) -> list[str]:
    """The finished runs' losses and speeds; the failed ones' errors."""
    failed, rows = [], []
    for path in sorted((folder / "isoflop").glob(f"*/{RECORD_NAME}")):
        record = read_record(path)
        name = f"{record.model} size={record.n_layers}"
        if record.val_loss is None:
            last = ((record.error or record.status).strip().splitlines() or [""])[-1]
            failed.append(f"{name}: {last}")
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
