"""Odd values of the newer keys of a run: one line each, before anything is written."""

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException

from experiments.config.hydra_hints import appended, normalized
from experiments.sweep.planning import plan_points
from experiments.system.command import exit_codes
from tests import odd_input
from tests.conftest import REPOSITORY

TABLE = REPOSITORY / "tests" / "config" / "odd_input.txt"


@pytest.fixture
def plan(compose_raw, tmp_path, monkeypatch):
    """plan("model=peer", ...): composes and plans, as `experiments.run` with dry_run=true does."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EXPERIMENTS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EXPERIMENTS_TRUST", "")

    def call(*given):
        words = normalized(given)
        while True:
            GlobalHydra.instance().clear()
            try:
                return plan_points([compose_raw(*words)])
            except ConfigCompositionException as error:
                words = appended(words, error)
                if words is None:
                    raise

    return call


@pytest.mark.parametrize(("words", "part"), odd_input.rows(TABLE))
def test_an_odd_value_is_refused_in_one_line(plan, tmp_path, capsys, words, part):
    with pytest.raises(SystemExit) as end, exit_codes():  # as run.main does
        plan(*words)
    out, err = capsys.readouterr()
    assert (end.value.code, out, list(tmp_path.iterdir())) == (2, "", [])
    odd_input.check(err.removesuffix("\n"), part, words)
