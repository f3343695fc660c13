"""The fourth edition tells no number before all of a stage's runs have ended."""

import math
from dataclasses import replace
from shutil import copy

import pytest

from analysis.fitting.status import FitError
from experiments.records.files import write_record
from tests.study import fine, fourth
from tests.study.records import find

FIRST, SECOND = fourth.STAGES
LOWEST, AT = 3.235, 0.003  # of the losses of no layer that are made here


@pytest.fixture
def ended(tmp_path, monkeypatch):
    """ended(n): the folder has so many of the first stage's twelve runs, of made losses."""
    copy(fourth.FOLDER / "preregistration.yaml", tmp_path)
    monkeypatch.setattr(fourth, "FOLDER", tmp_path)
    fourth.held.cache_clear()
    like = find("study/edition_2", model="none", budget=1e14, n_layers=fine.SIZE)[0]

    def make(n, **instead):
        for point in fourth.points(FIRST)[:n]:
            lr, seed = point.config.optim.lr, point.config.seed
            loss = LOWEST + 0.08 * math.log(lr / AT) ** 2 + 0.01 * (-1) ** seed
            own = {"run_id": point.run_id, "lr": lr, "seed": seed, "val_loss": loss}
            write_record(tmp_path / point.run_id, replace(like, **own | instead))

    yield make
    fourth.held.cache_clear()


@pytest.mark.parametrize(("n", "instead", "said"), [
    (0, {}, 0), (11, {}, 11), (12, {"status": "failed", "val_loss": None}, 0),
])  # fmt: skip
def test_of_some_runs_their_count_is_told_alone(ended, capsys, n, instead, said):
    ended(n, **instead)
    fourth.main()
    told = capsys.readouterr().out.partition("\nup to ")[2].splitlines()
    why = "no number is told before all have ended, as their number was registered"
    assert told == [
        f"{FIRST}: {said} of 12 runs", why, "", f"up to {SECOND}: {said} of 48 runs", why
    ]  # fmt: skip
    with pytest.raises(FitError, match=f"{12 - said} of 12 runs have not ended"):
        fourth.verdict("gain", FIRST)


def test_of_all_runs_of_a_stage_its_contrasts_are_told(ended, capsys):
    ended(12)
    fourth.main()
    told = capsys.readouterr().out
    assert all(f"up to {stage}: 12 of {n}" in told for stage, n in ((FIRST, 12), (SECOND, 48)))
    gain, *_ = fourth.verdict("gain", FIRST)
    assert f"gain: {gain.text}, p " in told
    peer, other = (
        next(m for m in fourth.held(FIRST).every.minima if m.layer == name and m.budget > 9e13)
        for name in ("peer", "none")
    )
    assert other.loss.value == pytest.approx(LOWEST, abs=0.005)
    assert gain.value.value == pytest.approx(peer.loss.value - other.loss.value)
