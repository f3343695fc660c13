"""Sweepers of others, which are told what a run's main function returns."""

import sys
import types

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

import hydra_plugins
from experiments.records.files import read_record
from experiments.run import main
from tests.conftest import TINY


class Bisector(Sweeper):
    """Asks for two rates, then for one between: what a sweeper of Hydra's may do."""

    told: list = []  # noqa: RUF012  (of the last sweep)

    def __init__(self, **settings):
        pass

    def setup(self, *, hydra_context, task_function, config):
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments):
        OverridesParser.create().parse_overrides(arguments)
        self.told.clear()
        for batch in (["2e-3", "8e-3"], ["4e-3"]):
            jobs = [(*arguments, f"ladder.lr={lr}") for lr in batch]
            returns = self.launcher.launch(jobs, initial_job_idx=len(self.told))
            self.told.extend(one.return_value for one in returns)


Bisector.__module__ = "hydra_plugins.bisector"  # where Hydra takes plugins from


@pytest.mark.parametrize(
    "launcher", ["basic", pytest.param("local", marks=[pytest.mark.long, pytest.mark.night])]
)
def test_a_sweeper_of_hydra_is_told_each_loss(tmp_path, monkeypatch, capsys, launcher):
    plugin = types.ModuleType(Bisector.__module__)
    plugin.Bisector = Bisector
    monkeypatch.setitem(sys.modules, plugin.__name__, plugin)
    monkeypatch.setattr(hydra_plugins, "bisector", plugin, raising=False)
    Plugins.instance().register(Bisector)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EXPERIMENTS_CACHE", str(tmp_path / "cache"))
    target = "hydra.sweeper._target_=hydra_plugins.bisector.Bisector"
    words = ["-m", f"hydra/launcher={launcher}", target, *TINY]
    words += ["size=1", "budget=2e8", "sweep=s"]
    monkeypatch.setattr(sys, "argv", ["experiments.run", *words])
    GlobalHydra.instance().clear()
    main()
    records = [read_record(p) for p in (tmp_path / "results" / "s").glob("*/record.json")]
    losses = {record.config["ladder"]["lr"]: record.val_loss for record in records}
    assert Bisector.told == [losses[2e-3], losses[8e-3], losses[4e-3]]
    again = [*Bisector.told]
    GlobalHydra.instance().clear()
    main()  # what is done is told, and not run
    assert Bisector.told == again
    assert "done before" in capsys.readouterr().out or launcher == "local"


def test_a_search_of_ours_needs_a_launcher_of_ours(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    search = ["hydra.sweeper.search={ladder.lr: 'log(2e-3, 4e-2)'}", "hydra.sweeper.n_trials=2"]
    for words, message in [
        (
            ["-m", "hydra/launcher=basic", *search],
            "hydra/launcher=dask, local, ray or slurm",
        ),
        (
            ["-m", "hydra/launcher=workers", *search],
            "draws no trials; use hydra/launcher=dask, local, ray or",
        ),
        (search, "hydra.sweeper.search is of many runs; add -m"),
        (["-m", search[1]], "hydra.sweeper.n_trials=2 without hydra.sweeper.search"),
    ]:
        monkeypatch.setattr(sys, "argv", ["experiments.run", *words])
        GlobalHydra.instance().clear()
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 2
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
