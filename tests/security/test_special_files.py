"""A pipe or a device in a stranger's folder is refused, or passed over, and nobody waits for it."""

import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from analysis.contrast.preregistration import read_registration
from analysis.rates.saved import read_rates
from analysis.table.histories import read_history
from analysis.table.sources import read_source
from experiments import status
from experiments.adapters.lora_files import read_lora
from experiments.data.files import read_documents
from experiments.finished.model import load_weights
from experiments.init.gguf_header import read_gguf_header
from experiments.init.safetensors_files import load_tensors, stored_tensors
from experiments.inspection.editing.patch import read_patch
from experiments.inspection.texts import _of_file
from experiments.language.app import APP
from experiments.records.files import HISTORY_NAME, RECORD_NAME, read_outcome, read_record
from experiments.sweep import control, manifest, submission
from experiments.sweep.lost import CONFIG_NAME
from experiments.sweep.progress import PROGRESS_NAME
from experiments.sweep.restore import raw_of_run
from experiments.system.claims import CLAIM_NAME, JOURNAL_NAME, is_claimed, read_events
from experiments.system.seals import find_damage
from experiments.tasks.items import read_task
from experiments.training.history import read_rows
from experiments.training.hopeless import find_rows
from experiments.training.seal import SealedCheckpoints
from tests.security.strangers import RUN_ID, plant_manifest, plant_run

KINDS = ("a named pipe", "a device")


@pytest.fixture(autouse=True)
def _soon():
    """An error after a minute, for what waits."""

    def late(*_):
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def special(path: Path, kind: str) -> Path:
    """Puts one in the place of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if kind == "a named pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    return path


def _hub_folder(path):
    return stored_tensors(path.parent)


READERS = {
    "record.json": [read_record, read_outcome, lambda path: read_source(path.parent)],
    "last.ckpt": [SealedCheckpoints().load_checkpoint, lambda path: load_weights(None, path, 1)],
    "history.csv": [
        lambda path: read_history(path, ["step"]),
        lambda path: read_rows(path, 1, None),
    ],
    "manifest.jsonl": [lambda path: manifest.load(path.parent)],
    "config.yaml": [lambda path: raw_of_run(APP, path.parents[1], path.parent.name)],
    "events.jsonl": [lambda path: read_events(path.parent)],
    "slurm/x.json": [submission.read],
    "patch.json": [lambda path: read_patch(path, path.parent, None)],
    "registered.yaml": [read_registration],
    "rates.json": [read_rates],
    "table.csv": [read_source],
    "table.csv.gz": [read_source],
    "table.parquet": [read_source],
    "text.txt": [
        lambda path: list(read_documents(path, "text", "line")),
        lambda path: _of_file(path, SimpleNamespace(vocabulary=None), None),
    ],
    "text.jsonl.gz": [lambda path: list(read_documents(path, "text", "line"))],
    "text.parquet": [lambda path: list(read_documents(path, "text", "line"))],
    "task.jsonl": [read_task],
    "a.gguf": [read_gguf_header],
    "model.safetensors": [load_tensors, _hub_folder],
    "adapter_config.json": [lambda path: read_lora(path.parent)],
}  # fmt: skip
CASES = [(name, i) for name, readers in READERS.items() for i in range(len(readers))]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "reader"), CASES, ids=[f"{name}-{i}" for name, i in CASES])
def test_it_is_refused_in_one_line(name, reader, kind, tmp_path):
    run_dir = tmp_path / RUN_ID
    plant_manifest(tmp_path, {}, run_id="b")
    path = special(run_dir / name, kind)
    with pytest.raises((ValueError, OSError)) as refused:
        READERS[name][reader](path)
    said = str(refused.value)
    assert any(why in said for why in ("only regular files are read", "has no ", "has neither"))
    assert "\n" not in said


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name",
    [RECORD_NAME, HISTORY_NAME, JOURNAL_NAME, PROGRESS_NAME, CLAIM_NAME, CONFIG_NAME, "last.ckpt",
     "log.txt", "../search.journal", "../slurm/x.json", "../.controllers/host-1"],
)  # fmt: skip
def test_status_goes_on(name, kind, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "results" / "s"
    plant_run(folder, {})
    plant_manifest(folder, {})
    special(folder / RUN_ID / name, kind)
    monkeypatch.setattr("sys.argv", ["status", "s", "--results", str(tmp_path / "results")])
    status.main()
    assert "dense" in capsys.readouterr().out


@pytest.mark.parametrize("kind", KINDS)
def test_the_rest_of_a_run_s_folder(kind, tmp_path):
    run_dir = plant_run(tmp_path, {})
    assert find_damage(special(run_dir / "last.ckpt", kind)).startswith(
        f"it is {kind}, and only reg"
    )
    assert not is_claimed(special(run_dir / CLAIM_NAME, kind).parent)
    assert find_rows(special(run_dir / HISTORY_NAME, kind).parent) == []
    special(tmp_path / ".controllers" / f"{control.own_name()}", kind)
    assert control.stop_controllers(tmp_path) == (0, [])
