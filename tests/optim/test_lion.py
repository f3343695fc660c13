"""Lion against Algorithm 2 of its paper, written out in float64."""

from dataclasses import asdict, replace

import pytest
import torch
from torch import nn

from experiments.benchmarks.core.loop import OPTIM
from experiments.models.ffn.peer import PEERConfig
from experiments.models.parametrization import Base
from experiments.models.transformer import TransformerConfig
from experiments.optim.groups import parameter_groups
from experiments.optim.lion import LionConfig
from experiments.optim.optimizer import GroupedOptimizer

LION = LionConfig(**asdict(OPTIM), lion_lr=0.2, lion_beta1=0.8, lion_beta2=0.95)
PEER = PEERConfig(n_experts=16, n_heads=2, top_k=2, d_key=4)


def test_steps_are_those_written_out_in_float64():
    generator = torch.Generator().manual_seed(0)
    parameter = nn.Parameter(torch.randn(7, 5, generator=generator))
    weight, momentum = parameter.detach().double(), torch.zeros(7, 5, dtype=torch.float64)
    group = {"by": LION, "params": [parameter], "lr": 0.02, "weight_decay": 0.1}
    optimizer = GroupedOptimizer([group])
    for _ in range(8):
        gradient = torch.randn(7, 5, generator=generator)
        gradient[0] = 0  # at first without a sign
        parameter.grad = gradient.clone()
        optimizer.step()
        direction = 0.8 * momentum + (1 - 0.8) * gradient.double()
        weight = weight - 0.02 * (direction.sign() + 0.1 * weight)
        momentum = 0.95 * momentum + (1 - 0.95) * gradient.double()
    # float32 has 24 bits, and eight steps round a few times each
    torch.testing.assert_close(parameter.detach().double(), weight, rtol=1e-6, atol=1e-6)
    kept = optimizer.state[parameter]["exp_avg"].double()
    torch.testing.assert_close(kept, momentum, rtol=1e-6, atol=1e-6)


def test_rate_times_decay_is_adamws_and_tables_are_adamws():
    sizes = {"d_head": 8, "vocab_size": 20, "seq_len": 8, "tie_head": False, "ffns": (PEER,)}
    for base, by in ((None, 1), (Base(d_model=16, d_head=8), 0.5)):
        model = TransformerConfig(d_model=32, base=base, **sizes).build()
        groups = {id(p): g for g in parameter_groups(model, 0.01, LION) for p in g["params"]}
        found = groups[id(model.get_parameter("blocks.0.attention.out.weight"))]
        assert found["by"] is LION
        assert found["lr"] == pytest.approx(0.01 * 0.2 * by)
        assert found["lr"] * found["weight_decay"] == pytest.approx(0.01 * 0.1)
        table = groups[id(model.get_parameter("blocks.0.ffn.w_up"))]
        assert (table["name"], table["by"].choice) == ("table", "optim=adamw")
        rows = parameter_groups(model, 0.01, replace(LION, table_gradient="rows"))
        assert {g["by"].choice for g in rows if g["name"] == "table"} == {"optim=row_adamw"}
