"""trainer.recompute, and the strategy that is refused."""

import csv

import pytest

from experiments.points.planning import make_point
from experiments.records.files import HISTORY_NAME
from experiments.training.execute import execute
from tests.conftest import TINY

RUN = ("model=peer", "size=2", "budget=2e9", "trainer.trunk=eager", *TINY)


def test_a_run_is_the_same_and_says_what_trained_it(compose_raw, tmp_path):
    found = []
    for how in ("false", "true"):
        paths = (f"paths.results={tmp_path / how}", f"paths.cache={tmp_path / 'cache'}")
        point = make_point(compose_raw(*RUN, f"trainer.recompute={how}", *paths))
        record = execute(point)
        assert record.status == "done", record.error
        with (point.run_dir / HISTORY_NAME).open() as file:
            losses = [row["loss"] for row in csv.DictReader(file)]
        found.append((record, losses, point.plan))
    (eager, losses, plan), (again, others, less) = found
    assert losses == others
    assert (again.run_id, again.val_loss) == (eager.run_id, eager.val_loss)
    assert again.environment["trunk"] == "eager, recomputed"
    assert less.cost == plan.cost  # what is computed again is not the model's
    assert less.memory.activations < plan.memory.activations


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (("trainer.recompute=true", "trainer.compile=true"), "decides itself what to keep"),
        (("trainer.recompute=true", "trainer.trunk=fused"), "keep what they keep; set it to auto"),
        (("trainer.strategy=fsdp",), "trainer.strategy=fsdp .* set trainer.table_ranks=all"),
        (("trainer.strategy=deepspeed",), "trainer.strategy"),
    ],
)
def test_what_excludes_each_other_is_refused_by_name(compose_raw, given, why):
    with pytest.raises(ValueError, match=why):
        make_point(compose_raw(*RUN[:3], *TINY, *given))
