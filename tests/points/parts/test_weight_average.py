"""Mean of weights over the last steps, against one that is written out in float64."""

import json

import pytest
import torch

from experiments.models.ffn.peer import PEERConfig
from experiments.models.transformer import TransformerConfig
from experiments.points.parts.weight_average import Averaging, WeightAverage
from experiments.points.planning import make_point
from experiments.records.record import flat_row
from experiments.training.execute import execute
from tests.conftest import TINY, Killed, kill_at

PART = ("parts=[weight_average]", "parts.weight_average.share=0.3")


class Reader:
    """A scorer whose loss is the model's first weight."""

    def __init__(self, model):
        self.model = model

    def all(self):
        value = float(next(self.model.parameters()).detach().flatten()[0])
        return {"validation": {"loss": value, "bits_per_byte": 2 * value}}


@pytest.fixture
def model():
    layer = PEERConfig(n_experts=16, n_heads=2, top_k=2, d_key=4)  # has statistics of batch norm
    config = TransformerConfig(
        d_model=16, d_head=8, vocab_size=30, seq_len=8, tie_head=False, ffns=(layer,)
    )
    return config.build()


@pytest.mark.parametrize(
    ("share", "n_steps", "wanted"), [(0.3, 62, 19), (0.01, 10, 1), (1e-300, 1, 1), (1.0, 7, 7)]
)
def test_the_steps_in_the_mean_are_the_share_of_them_and_one_at_least(share, n_steps, wanted):
    assert WeightAverage(share=share).n_steps(n_steps) == wanted


def test_means_are_of_each_step_after_the_first_ones_and_the_model_stays(model):
    part, seen = Averaging(model, 3, Reader(model)), []
    generator = torch.Generator().manual_seed(0)
    for step in range(9):
        part.at_step(step, lambda: None)
        part.at_step(step, lambda: None)  # as a process that goes on does
        if step > 3:
            seen.append([t.double().clone() for t in model.state_dict().values()])
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                if tensor.is_floating_point():
                    tensor += torch.randn(tensor.shape, generator=generator)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    first = next(iter(model.state_dict()))
    expected = torch.stack([tensors[0] for tensors in seen]).mean(0)
    with part._averaged():
        means = model.state_dict()
        for i, (name, tensor) in enumerate(means.items()):
            if tensor.is_floating_point():
                whole = torch.stack([tensors[i] for tensors in seen]).mean(0)
                assert (tensor.double() - whole).abs().max() < 1e-5, name
    columns = part.columns()["weight_average"]
    assert columns["n_steps"] == len(seen) == 5
    assert columns["validation.loss"] == pytest.approx(float(expected.flatten()[0]), abs=1e-5)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items()), first


def test_weights_of_16_bits_are_averaged_in_32(model):
    model.bfloat16()
    part = Averaging(model, 0, None)
    weight = next(model.parameters())
    for step, value in enumerate((1.0, 1.0078125, 1.0), 1):  # neighbours in bfloat16
        weight.data.fill_(value)
        part.at_step(step, lambda: None)
    assert part._means[0].flatten()[0] == pytest.approx(1 + 0.0078125 / 3, rel=1e-6)


def test_what_a_checkpoint_keeps_goes_on(model):
    whole, broken = Averaging(model, 2, None), Averaging(model, 2, None)
    assert broken.kept() == {}
    for step in range(1, 8):
        next(model.parameters()).data.add_(step)
        whole.at_step(step, lambda: None)
        if step == 5:
            kept, broken = broken.kept(), Averaging(model, 2, None)
            broken.take(kept)
            broken.at_step(4, lambda: None)  # is in it already
        broken.at_step(step, lambda: None)
    assert broken.n_steps == whole.n_steps == 5
    assert all(map(torch.equal, broken._means, whole._means))


@pytest.fixture
def make(compose_raw, tmp_path):
    def point(*overrides, folder="whole"):
        paths = (f"paths.results={tmp_path / folder}", f"paths.cache={tmp_path / 'cache'}")
        fixed = ("model=peer", "size=2", "budget=2e9", *TINY)
        return make_point(compose_raw(*fixed, *paths, *overrides))

    return point


def test_a_run_is_as_it_was_and_its_mean_is_beside_it(make):
    plain, point = execute(make()), make(*PART)
    assert point.run_id != plain.run_id
    record = execute(point)
    assert record.val_loss == plain.val_loss
    found = record.parts["weight_average"]
    assert found["n_steps"] == round(0.3 * record.n_steps)
    assert found["validation.loss"] != record.val_loss
    assert found["validation.loss"] == pytest.approx(record.val_loss, rel=0.1)
    assert flat_row(record)["weight_average.validation.loss"] == found["validation.loss"]
    broken = make(*PART, "trainer.checkpoint_minutes=0", folder="broken")
    with pytest.raises(Killed):
        execute(broken, kill_at((broken.plan.n_steps - 1) // 10 * 10))
    again = execute(broken)
    assert again.parts == record.parts
    assert json.loads((broken.run_dir / "record.json").read_text())["parts"] == record.parts


def test_shares_and_branches_are_refused_and_the_plan_says_it(make):
    part = make(*PART)
    heading, line = WeightAverage(share=0.3).plan_line(part)
    n_steps = part.plan.n_steps
    assert heading == "Mean of weights"
    assert line == f"of the last {round(0.3 * n_steps)} of {n_steps} steps"
    with pytest.raises(ValueError, match=r"parts.weight_average.share=0 must be above 0"):
        make("parts=[weight_average]", "parts.weight_average.share=0")
    with pytest.raises(ValueError, match=r"optim.branch_from=trunk: the steps of a trunk are in"):
        make(*PART, "optim.branch_from=trunk", "optim.schedule=wsd", "optim.warmup_tokens=1e3")
