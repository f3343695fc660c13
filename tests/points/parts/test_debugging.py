"""debug=NAME: runs to look at, which have ids of their own and are no results; and tags."""

import json

import pytest

from analysis.__main__ import main
from experiments.models.transformer import Transformer
from experiments.points.planning import make_point
from experiments.training.execute import execute
from experiments.training.trackers.weights_and_biases import make_tags
from tests.conftest import TINY

SIZE = ("size=1", "budget=2e9", *TINY)


def test_a_debugging_run_has_an_id_and_a_sweep_of_its_own(compose_raw):
    run = make_point(compose_raw(*SIZE))
    looked_at = {name: make_point(compose_raw(*SIZE, f"debug={name}"))
                 for name in ("default", "fdr", "overfit", "profiler")}  # fmt: skip
    ids = {run.run_id, *(point.run_id for point in looked_at.values())}
    assert len(ids) == 5
    for name, point in looked_at.items():
        debug = point.config.debug
        assert (point.config.sweep, debug.name, debug.of_budget) == ("debug", name, 2e9)
        assert point.plan.n_steps == debug.steps
        assert point.config.budget == pytest.approx(point.plan.planned_flops)
        assert make_point(point.raw).run_id == point.run_id  # as a manifest gives it back
        assert (point.config.logger.wandb, point.config.logger.tools) == ("disabled", None)
    # even with the very settings of a run
    same = compose_raw(*SIZE, "debug=fdr", f"budget={run.plan.planned_flops / run.plan.n_steps}")
    alone = {**same, "debug": None}
    assert make_point(same).run_id != make_point(alone).run_id
    of_another = make_point(compose_raw(*SIZE, "debug=fdr", "budget=4e9"))
    assert of_another.run_id != looked_at["fdr"].run_id  # each point of a sweep has its own


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("debug=fdr", "sweep=mine"), "debug=fdr with sweep=mine: it is no result"),
        (("debug=profiler", "debug.steps=5"), "profile_after=5 is to be below steps=5"),
        (("debug=profiler", "trainer.devices=2"), "debug=profiler with 2 ranks"),
        (("debug=overfit", "data.streaming=true"), "data.streaming=true"),
        (("debug=fdr", "debug.steps=0"), "debug.steps=0 must be at least 1"),
    ],
)
def test_what_can_not_be_looked_at_is_refused(compose_raw, words, message):
    with pytest.raises(ValueError, match=message):
        make_point(compose_raw(*SIZE, *words))


def test_a_few_windows_are_learnt_by_heart_and_the_analysis_takes_no_such_run(
    compose_raw, tmp_path, capsys
):
    place = (f"paths.results={tmp_path}", f"paths.cache={tmp_path / 'cache'}")
    words = ("debug=overfit", "debug.steps=60", "ladder.lr=0.03", *place)
    record = execute(make_point(compose_raw(*SIZE, *words)))
    assert record.status == "done"
    assert record.val_loss > 1.5 * record.train_loss
    assert record.config["debug"]["windows"] == 4
    assert main(["report", str(tmp_path / "debug")]) == 2
    assert "debugging runs alone" in capsys.readouterr().err


def test_the_profile_is_printed_and_in_the_folder(compose_raw, tmp_path, capsys):
    place = (f"paths.results={tmp_path}", f"paths.cache={tmp_path / 'cache'}")
    words = ("debug=profiler", "debug.steps=4", "debug.profile_after=2", *place)
    point = make_point(compose_raw(*SIZE, *words))
    assert execute(point).status == "done"
    table = (point.run_dir / "profile.txt").read_text()
    assert "Self CPU" in table
    assert table in capsys.readouterr().err
    # two of four steps are in it
    line = next(line for line in table.splitlines() if "Optimizer.step" in line)
    assert line.split()[-1] == "2"


def test_an_anomaly_is_named_by_its_operation(compose_raw, tmp_path, monkeypatch, capfd):
    whole = Transformer.forward

    def broken(self, *args, **kwargs):
        found = whole(self, *args, **kwargs)
        return (found.float() * 0).sqrt() + found  # its gradient at 0, infinite, times 0

    monkeypatch.setattr(Transformer, "forward", broken)
    place = (f"paths.results={tmp_path}", f"paths.cache={tmp_path / 'cache'}")
    record = execute(make_point(compose_raw(*SIZE, "debug=default", *place)))
    assert record.status == "failed"
    assert "Function 'MulBackward0' returned nan values" in record.error
    assert "(found.float() * 0).sqrt()" in capfd.readouterr().err  # the line of the forward pass


def test_tags_are_recorded_and_change_no_id(compose_raw, tmp_path):
    place = (f"paths.results={tmp_path}", f"paths.cache={tmp_path / 'cache'}")
    words = (*SIZE, "budget=9.7321e7", *place)
    plain, tagged = (make_point(compose_raw(*words, *more)) for more in ((), ("tags=[mine,b 2]",)))
    assert plain.run_id == tagged.run_id
    record = execute(tagged)
    assert json.loads((tagged.run_dir / "record.json").read_text())["config"]["tags"]
    assert record.config["tags"] == ["mine", "b 2"]
    assert make_tags(record.config)[:3] == ["mine", "b 2", "ladder=cpu"]
    assert make_point({k: v for k, v in plain.raw.items() if k != "tags"}).run_id == plain.run_id


@pytest.mark.parametrize("tags", ["[a,a]", '["a, b"]', '[" a"]', f"[{'x' * 65}]", "[3]", "a"])
def test_tags_that_are_none_are_refused(compose_raw, tags):
    with pytest.raises(ValueError, match="tags"):
        make_point(compose_raw(*SIZE, f"tags={tags}"))
