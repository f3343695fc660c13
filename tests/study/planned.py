"""Points that an experiment's yaml plans."""

import sys
from functools import cache

import pytest
from hydra.core.global_hydra import GlobalHydra

from experiments.points.planning import make_point
from experiments.run import main
from tests.study.records import ROOT


@cache
def planned(experiment):
    """In the order of its grids; nothing is trained."""
    raws = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)  # a law's file is named from there
        patch.setattr(
            "experiments.sweep.many_runs.run_sweep", lambda some, _, place: raws.extend(some) or []
        )
        patch.setattr(sys, "argv", ["experiments.run", f"experiment={experiment}"])
        GlobalHydra.instance().clear()
        main()
        return [make_point(raw) for raw in raws]
