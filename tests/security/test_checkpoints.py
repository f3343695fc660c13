"""A checkpoint that runs code when it is unpickled, with a right seal: nobody unpickles it."""

import pathlib

import pytest
import torch

from experiments.finished.model import load_weights
from experiments.init.finished_run import FinishedRun
from experiments.points.planning import make_point
from experiments.system.seals import find_damage, save_sealed
from experiments.training.checkpoints import LAST, to_resume_from
from experiments.training.execute import execute
from experiments.training.seal import SealedCheckpoints
from tests.conftest import TINY
from tests.security.strangers import plant_run


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, ran: pathlib.Path) -> None:
        self.ran = ran

    def __reduce__(self):
        return pathlib.Path.touch, (self.ran,)


@pytest.fixture
def ran(tmp_path):
    return tmp_path / "ran"


def planted(path: pathlib.Path, ran: pathlib.Path, *, old: bool = False) -> pathlib.Path:
    """A checkpoint with the keys that a resume needs, and a payload. old: in torch's format of
    before its archives, which has no seal.
    """
    content = {
        "state_dict": {"model.x": Payload(ran)}, "optimizer_states": [],
        "global_step": 1, "loops": {},
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    if old:
        torch.save(content, path, _use_new_zipfile_serialization=False)
    else:
        save_sealed(content, path)
    return path


@pytest.mark.parametrize("old", [False, True])
def test_nobody_unpickles_it(old, ran, tmp_path, monkeypatch):
    monkeypatch.setenv(
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1"
    )  # the machine's default does not count
    path = planted(tmp_path / "run" / LAST, ran, old=old)
    if old:
        assert find_damage(path) is not None
    else:
        assert find_damage(path) is None, "the seal is right: anybody can compute it"
    for asked in (None, True, False):  # Lightning 2.5 gives none, and then loads with False
        with pytest.raises(ValueError, match="to read it would run code that is in it"):
            SealedCheckpoints().load_checkpoint(path, weights_only=asked)
    with pytest.raises(ValueError, match=r"does not hold this run's weights|is damaged"):
        load_weights(torch.nn.Linear(1, 1), path, 1)
    assert not ran.exists()
    torch.load(path, weights_only=False)
    assert ran.exists(), "the payload works"


def test_weights_to_start_from_are_not_unpickled(ran, compose_raw, tmp_path):
    raw = compose_raw("size=1", "budget=2e9", *TINY, f"paths.results={tmp_path}")
    run_dir = plant_run(tmp_path / "stranger", raw)
    planted(run_dir / LAST, ran)
    with pytest.raises(ValueError, match="holds no weights of a run"):
        FinishedRun(path=str(run_dir)).digest(tmp_path)
    assert not ran.exists()


def test_a_run_that_would_go_on_from_it_fails(ran, compose_raw, tmp_path):
    paths = (f"paths.results={tmp_path / 'results'}", f"paths.cache={tmp_path / 'cache'}")
    point = make_point(compose_raw("size=1", "budget=2e8", *TINY, *paths))
    planted(point.run_dir / LAST, ran)
    assert to_resume_from(point.run_dir) is not None
    record = execute(point)
    assert record.status == "failed"
    assert "to read it would run code that is in it" in record.error
    assert not ran.exists()
