"""What a point says it runs on, and how its processes share a batch."""

import json
import math
from dataclasses import replace

import pytest
import torch

from experiments.config.schema import Init
from experiments.models.ffn.dense import DenseConfig
from experiments.models.norms.rms import RMSNormConfig
from experiments.models.transformer import Transformer
from experiments.points.memory import trained_shapes
from experiments.points.parts.parametrization import Parametrization
from experiments.points.planning import compute_run_id, make_point
from tests.conftest import TINY


@pytest.fixture
def make(compose_raw):
    return lambda *overrides: make_point(
        compose_raw("size=2", "budget=2e11", *TINY, "ladder.batch_size=16", *overrides)
    )


@pytest.mark.parametrize(
    ("overrides", "shares"),
    [
        ((), (1, 1, 16)),
        (("trainer.micro_batch_size=4",), (1, 4, 4)),
        (("trainer.devices=2",), (2, 1, 8)),
        (("trainer.devices=2", "trainer.num_nodes=2", "trainer.micro_batch_size=2"), (4, 2, 2)),
    ],
)
def test_every_sequence_of_a_batch_is_in_one_forward_pass(make, overrides, shares):
    point = make(*overrides)
    ranks = point.ranks
    assert (ranks.world_size, ranks.n_micro, ranks.n_sequences) == shares
    assert ranks.batch_size == 16
    assert point.plan.batch_tokens == 16 * point.config.data.seq_len


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (("trainer.devices=3",), r"ladder\.batch_size=16 must be a multiple of the 3 ranks"),
        (
            ("trainer.devices=2", "trainer.micro_batch_size=3"),
            r"trainer\.micro_batch_size=3 must divide the 8 sequences",
        ),
    ],
)
def test_a_batch_that_can_not_be_shared_is_refused(make, compose_raw, overrides, why):
    with pytest.raises(ValueError, match=why):
        make(*overrides)
    with pytest.raises(ValueError, match=why):
        compute_run_id(
            compose_raw("size=2", "budget=2e11", *TINY, "ladder.batch_size=16", *overrides)
        )


def test_a_gpu_that_is_not_there_is_refused_and_has_a_run_id_all_the_same(
    make, compose_raw, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("cuda", "gpu"):
        with pytest.raises(ValueError, match=r"sees no GPU; .* to plan for: cluster=h100"):
            make(f"trainer.accelerator={name}")
    raw = compose_raw(
        "size=2", "budget=2e11", *TINY, "ladder.batch_size=16", "trainer.accelerator=cuda"
    )
    assert compute_run_id(raw) == make().run_id


def test_a_rate_by_law_is_the_run_with_that_number(compose_raw, tmp_path):
    """A plan asked again says the same, and where the rate is from is no part of a run."""
    law = {
        "label": "d_model",
        "models": ["dense"],
        "columns": ["d_model"],
        "theta": [math.log(0.64), -1.0],
        "covariance": [[0.01, 0.0], [0.0, 0.0]],
        "dof": 4,
        "ranges": {"d_model": [32.0, 64.0]},
    }
    path = tmp_path / "rates.json"
    path.write_text(json.dumps({"forms": [{"chosen": "d_model", "laws": [law]}]}))
    small = ("model=dense", "size=2", "budget=2e11", *TINY)

    def point(*overrides):
        return make_point(compose_raw(*small, *overrides))

    found = point("optim.lr=law", f"optim.law={path}")
    d_model = found.transformer.d_model
    assert found.plan.lr == pytest.approx(0.64 / d_model, rel=1e-3)
    assert found.plan.lr_from.startswith(f"{0.64 / d_model:.2e} (95 % ")
    number = found.config.optim.lr
    assert point(f"optim.lr={number}").run_id == found.run_id == compute_run_id(found.raw)
    assert make_point(found.raw).plan.lr == found.plan.lr  # as a worker reads it, without the file
    path.unlink()
    assert make_point(found.raw).run_id == found.run_id
    with pytest.raises(ValueError, match=r"optim\.lr=law wants to know which: give optim\.law"):
        point("optim.lr=law")
    with pytest.raises(ValueError, match=r"optim\.lr='low' must be of type float, or 'law'"):
        point("optim.lr=low")


MUP = ("optim.parametrization=mup", "ladder.d_head=8", "ladder.lr_d_model=16")


def test_mup_takes_the_ladder_s_rate_as_it_is(make):
    """At every width; the groups of the optimizer divide it (optim/groups.py)."""
    for d_per_layer in (8, 32):
        plan = make("ladder.lr=0.01", *MUP, f"ladder.d_per_layer={d_per_layer}").plan
        assert plan.lr == 0.01
    at_base, standard = make(*MUP, "ladder.d_per_layer=8"), make("ladder.d_head=8")
    assert at_base.transformer.base is not None
    assert standard.transformer.base is None
    assert at_base.plan.cost.training_flops < standard.plan.cost.training_flops


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (("optim.parametrization=completep",), r"optim\.lr_n_layers=null with optim\.parametriz"),
        ((*MUP, "ladder.lr_d_model=12"), r"lr_d_model=12 with .* whole number of heads of ladder"),
        (
            (*MUP, "ladder.lr_d_model=24", "trunk.attention.n_kv_heads=2"),
            r"n_kv_heads=2 must divide the 3 heads of .*; change ladder\.lr_d_model",
        ),
    ],
)
def test_a_base_that_can_not_be_is_refused(make, overrides, why):
    with pytest.raises(ValueError, match=why):
        make(*overrides)


def test_a_run_that_starts_from_weights_has_no_base(make):
    point = make(*MUP)
    init = Init(
        weights=None, path=None, sha256=None, how="keep", train="all", noise=0.0, reinit=0.0,
        distil_tokens=0, distil_lr=1e-3, lora_rank=1,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"=mup says how weights start .* set optim\.parametriz"):
        Parametrization().shape(replace(point.config, init=init), point.transformer)


@pytest.mark.parametrize(
    ("part", "method", "error", "said"),
    [
        (DenseConfig, "cost", ValueError("glu=0 must"), r"model\.glu=0 must$"),
        (
            DenseConfig, "build", RuntimeError("negative dimension"),
            r"Dense can't be built at d_model=32: negative dimension; change model\.width_factor=4",
        ),
        (
            RMSNormConfig, "build", ValueError("32 is odd"),
            r"RMSNorm can't be built at d_model=32: 32 is odd; change trunk\.norm\.eps=null$",
        ),
        (Transformer, "_scale_initial", ValueError("as it is"), "^as it is$"),
    ],
)  # fmt: skip
def test_what_a_part_refuses_when_it_is_built_names_its_settings(
    make, monkeypatch, part, method, error, said
):
    def refuse(*_):
        raise error

    trained_shapes.cache_clear()
    monkeypatch.setattr(part, method, refuse)
    with pytest.raises(ValueError, match=said):
        make("model=dense", "norm=rms")
