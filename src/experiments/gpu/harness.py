"""Harness itself, from a part: what it needs, its command, and where its runs are."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from experiments.gpu.job import Job, LeftOut
from experiments.records.files import RECORD_NAME, read_record
from experiments.records.record import RunRecord

NEEDED = ("hydra", "omegaconf", "lightning", "tokenizers")
CACHE = Path("wheels/cache")  # where `make gpu-wheels` puts the tokens
DATA = ("data=wikitext2",)
TOY = (
    "budget=5e9",
    "ladder.d_per_layer=16",
    "ladder.d_head=16",
    "ladder.batch_size=1",
    "data.n_eval_tokens=4096",
    "trainer.accelerator=cpu",
)
_TO_SAVE = 20  # seconds


def runs_folder(job: Job) -> Path:
    """Not beside the report, which a machine may take back few files with. Raises LeftOut without
    the harness's packages.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise LeftOut(f"{', '.join(missing)} not installed: make gpu-wheels (docs/gpu-check.md)")
    folder = Path(tempfile.gettempdir()).resolve() / "gpu-check" / job.report.folder.name
    job.note(runs=str(folder))
    return folder


def run_harness(job: Job, folder: Path, words: Sequence[str], program: Sequence[str] = ()) -> int:
    """Exit code of `experiments.run` with these words. program: what starts Python, if not this
    interpreter itself. Raises LeftOut if the part's time was over before it ended; its runs have
    saved.
    """
    command = [*(program or (sys.executable,)), "-m", "experiments.run", *words]
    command += [*DATA, *(TOY if job.toy else ()), "logger=csv", f"paths.results={folder}"]
    environment = dict(os.environ)
    if CACHE.is_dir():
        environment.setdefault("EXPERIMENTS_CACHE", str(CACHE.resolve()))
    with subprocess.Popen(command, env=environment) as process:
        try:
            return process.wait(max(1.0, job.seconds_left() - _TO_SAVE))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)  # its runs save
    raise LeftOut("the time was over before its runs had ended; call it again to go on")


def load_records(sweep: Path) -> Iterator[RunRecord]:
    """Records of a sweep's runs."""
    for path in sorted(sweep.glob(f"*/{RECORD_NAME}")):
        yield read_record(path)


def read_error(record: RunRecord) -> str:
    """Last line of a run that has no loss."""
    return ((record.error or record.status).strip().splitlines() or [""])[-1]
