"""`make audit-security` itself: it finds nothing, and sees what runs where something does."""

import pytest

from tests.security.__main__ import main
from tests.security.attacks import ATTACKS

NAME = "_target_ in a record: generate"


@pytest.mark.night
def test_what_runs_is_seen(capsys):
    assert NAME in ATTACKS
    assert main(["--only", NAME]) == 0
    assert f"{NAME}  refused, 2  error: model._target_=" in capsys.readouterr().out
    assert main(["--only", NAME, "--trust", "results"]) == 1
    assert f"{NAME}  RAN" in capsys.readouterr().out
