"""`make audit-security` itself: it finds nothing, and sees what runs where something does."""

import pytest

from tests.security.__main__ import main, outcome, place
from tests.security.app_attacks import APP_ATTACKS
from tests.security.attacks import ATTACKS

NAME = "_target_ in a record: generate"


@pytest.mark.night
def test_what_runs_is_seen(capsys):
    assert NAME in ATTACKS
    assert main(["--only", NAME]) == 0
    assert f"{NAME}  refused, 2  error: model._target_=" in capsys.readouterr().out
    assert main(["--only", NAME, "--trust", "results"]) == 1
    assert f"{NAME}  RAN" in capsys.readouterr().out


@pytest.mark.night
def test_an_app_that_runs_is_seen(tmp_path):
    here, prepare = place(tmp_path), APP_ATTACKS["an app of a stranger's file: retry"]
    assert outcome(prepare, here)[0] == "refused, 2"
    assert outcome(lambda place: [*prepare(place), "--trust"], here)[0] == "RAN"
