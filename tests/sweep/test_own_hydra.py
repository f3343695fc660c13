"""What Hydra offers in an app of one's own: honoured in each point, or refused with a line."""

import copy
import datetime
import logging
import sys
import types

import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import CompactHydraException

from experiments.config import late
from experiments.records.files import read_any_record
from experiments.sweep import app as apps
from experiments.sweep.app import find_app
from experiments.sweep.planning import plan_points
from hydra_plugins.experiments_sweep import PointLauncher

APP = """
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from experiments.sweep.own_app import OwnApp

class Starts(Callback):
    def on_multirun_start(self, config, **given): pass

class Calls(Callback):
    def on_job_end(self, config, job_return, **given): pass

class Mine(OwnApp):
    def run(self, run):
        hydra = HydraConfig.get()
        return {"folder": hydra.runtime.output_dir, "name": hydra.job.name, **run.config["values"]}
"""
CONFIG = """
defaults:
  - engine
  - _self_
  - group: one
  - override hydra/launcher: local
  - override hydra/sweeper: points
  - override hydra/job_logging: none
  - override hydra/hydra_logging: none
x: 1
values:
  stamp: ${now:%Y}
  below: ${hydra:runtime.output_dir}/below
  chosen: ${hydra:runtime.choices.group} of ${hydra:job.name}
"""


pytestmark = pytest.mark.filterwarnings("ignore:hydra.utils.instantiate")  # Hydra 1.4, of callbacks


@pytest.fixture
def mine(tmp_path, monkeypatch, capsys):
    """mine(*words): exit code, and what the app's command printed."""
    for name, text in (
        ("mine.py", APP), ("conf/config.yaml", CONFIG), ("conf/group/one.yaml", "x: 1"),
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    app = __import__("mine").Mine

    def command(*words):
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["mine.py", *words])
        code = 0
        try:
            app.main()
        except SystemExit as end:
            code = end.code
        return code, "".join(capsys.readouterr())

    level, store = logging.root.level, ConfigStore.instance()
    Plugins.instance()  # which enter theirs once
    before = copy.deepcopy(store.repo)
    yield command
    store.repo = before
    logging.root.setLevel(level)  # hydra.verbose's
    late._moment.cache_clear()
    apps._known.pop("mine:Mine", None)
    sys.modules.pop("mine", None)


def _at(monkeypatch, year):
    moment = types.SimpleNamespace(now=lambda: datetime.datetime(year, 1, 2))
    monkeypatch.setattr(late, "datetime", moment)
    late._moment.cache_clear()


def test_a_moment_is_no_part_of_an_id(mine, tmp_path, monkeypatch):
    """And a run has its own folder and moment, and choices of Hydra's."""
    _at(monkeypatch, 2001)
    assert mine("sweep=a")[0] == 0
    (path,) = tmp_path.glob("results/a/*/record.json")
    record = read_any_record(path)
    assert record.values == {
        "folder": str(path.parent), "name": "mine", "stamp": "2001",
        "below": str(path.parent / "below"), "chosen": "one of mine",
    }  # fmt: skip
    _at(monkeypatch, 2002)
    assert "done before" in mine("sweep=a")[1]
    assert "1 of 1 runs are done already" in mine("-m", "sweep=a", "x=1")[1]
    assert mine("sweep=${now:%Y}", "x=2")[0] == 0  # of the engine's keys it is the command's
    assert len([*tmp_path.glob("results/2002/*/record.json")]) == 1


@pytest.mark.parametrize("sweeps", [True, False])
def test_what_no_point_has_is_named(mine, tmp_path, sweeps):
    code, out = mine(*["-m"] * sweeps, "+y=${hydra:job.num}")
    assert (code, out.count("\n")) == (2, 1)
    assert out.startswith("error: y=${hydra:job.num} is nothing that a point of a sweep has; use")
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["hydra.run.dir=x"], "hydra.run.dir='x' has no effect here; runs are written to paths."),
        (["-m", "hydra.sweep.dir=x"], "hydra.sweep.dir='x' has no effect here; runs are written"),
        (["-m", "hydra.sweep.subdir=x"], "hydra.sweep.subdir='x' has no effect here; runs are"),
        (["-m", "hydra.output_subdir=x"], "hydra.output_subdir='x' has no effect here; a run's"),
        (["hydra.job.chdir=true"], "hydra.job.chdir=true has no effect here; a run stays where"),
        (["-m", "hydra.job.chdir=true"], "hydra.job.chdir=true has no effect here; a run stays"),
        (["-m", "hydra/launcher=basic", "hydra.job.chdir=true"], "hydra.job.chdir=true has no"),
        (["-m", "+hydra.job.env_set.X=1"], "hydra.job.env_set={'X': '1'} reaches no point of a"),
        (["-m", "hydra.job.env_copy=[HOME]"], "hydra.job.env_copy=['HOME'] reaches no point of"),
        (["-m", "hydra.verbose=true"], "hydra.verbose=true reaches no point of a sweep; leave"),
        (["-m", "hydra/job_logging=stdout"], "hydra/job_logging=stdout reaches no point of a"),
        (["-m", "+hydra.callbacks.of._target_=mine.Calls"], "hydra.callbacks.of: on_job_end of mi"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(mine, tmp_path, words, said):
    code, out = mine(*words)
    assert (code, out.count("\n")) == (2, 1), out
    assert out.startswith(f"error: {said}")
    assert not (tmp_path / "results").exists()


def test_settings_that_are_followed_are_taken(mine):
    for words in (["hydra/job_logging=default"], ["+hydra.callbacks.of._target_=mine.Starts"]):
        assert mine("-m", "dry_run=true", *words)[0] == 0


def test_a_plain_function_of_hydra_s_is_told_what_to_do():
    def plain(config):
        pass

    said = "hydra/launcher=local runs apps of .*plain is a plain function of Hydra's: make it the"
    with pytest.raises(CompactHydraException, match=said):
        PointLauncher("local").setup(hydra_context=None, task_function=plain, config=None)


def test_a_late_import_of_hydra_s_config_says_what_to_do(ridge_app, ridge_raw, monkeypatch):
    def run(self, run):
        raise ValueError("HydraConfig was not set")

    app = find_app("ridge:Ridge")
    monkeypatch.setattr(type(app), "run", run)
    (point,) = plan_points([ridge_raw()], place="ridge:Ridge")
    assert "imports it at the top: do so, or ask run.folder" in app.execute(point).error
