"""Steps in turns of Lightning's loop: no number depends on how many a turn takes."""

import pytest
import torch

from experiments.training.checkpoints import LAST
from experiments.training.execute import execute
from experiments.training.module import LanguageModel
from tests.conftest import Killed, kill_at

TINIEST = ("size=1", "budget=5e8")


def trained(point):
    """A run's outcome: all tensors of its checkpoint, and its loss on held-out text."""
    record = execute(point)
    assert record.status == "done", record.error
    loaded = torch.load(point.run_dir / LAST, weights_only=True)
    moments = loaded["optimizer_states"][0]["state"].values()
    return [*loaded["state_dict"].values(), *(t for m in moments for t in m.values())], record


@pytest.mark.parametrize(
    "choices", [("model=moe_fine",), ("trainer.precision=bf16-mixed", "trainer.micro_batch_size=2")]
)
def test_numbers_do_not_depend_on_turns(make, monkeypatch, choices):
    taken, step = [], LanguageModel.training_step

    def counted(self, batches):
        taken.append(1)
        step(self, batches)

    monkeypatch.setattr(LanguageModel, "training_step", counted)
    several, record = trained(make(*TINIEST, *choices))
    assert len(taken) == 1
    each = (*TINIEST, *choices, "trainer.checkpoint_minutes=0")
    single, other = trained(make(*each, folder="single"))
    assert len(taken) == 1 + record.n_steps
    assert other.val_loss == record.val_loss
    assert all(map(torch.equal, several, single))


def test_a_checkpoint_of_a_version_with_a_turn_for_each_batch_is_gone_on_from(make):
    choices = (*TINIEST, "trainer.micro_batch_size=2")
    whole, record = trained(make(*choices))
    broken = make(*choices, "trainer.checkpoint_minutes=0", folder="broken")
    with pytest.raises(Killed):
        execute(broken, kill_at(10))
    path = broken.run_dir / LAST
    checkpoint = torch.load(path, weights_only=True)
    n_steps, loop = checkpoint["global_step"], checkpoint["loops"]["fit_loop"]
    assert n_steps == 9

    def counted(n, *names):
        return {key: dict.fromkeys(names, n) for key in ("total", "current")}

    names = ("ready", "started", "processed", "completed")
    loop["epoch_loop.batch_progress"] |= counted(2 * n_steps, *names)
    loop["epoch_loop.batch_progress"]["total"]["completed"] -= 1
    loop["epoch_loop.batch_progress"]["current"]["completed"] -= 1
    of_steps = loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]
    of_steps["step"] = counted(n_steps, "ready", "completed")
    place = "epoch_loop.manual_optimization.optim_step_progress"
    loop[place] = counted(0, "ready", "completed")
    torch.save(checkpoint, path)
    steps = []
    record_of_two = execute(make(*choices, folder="broken"), lambda row: steps.append(row["step"]))
    assert steps[0] == 10
    assert record_of_two.val_loss == record.val_loss
    found = torch.load(path, weights_only=True)["state_dict"].values()
    assert all(map(torch.equal, found, whole))
