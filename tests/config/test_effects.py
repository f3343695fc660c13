"""Which settings can change a run: what the fields declare, against conf/ and real points."""

import dataclasses
import functools

import pytest

from experiments.config.effects import USED, VARIES, Is, Run, Trains, Unset, ineffective
from experiments.config.fields import added, used
from experiments.config.optim import Optim
from experiments.config.reading import without
from experiments.config.schema import Continual, Data, Init, Ladder, RunConfig, Trunk
from experiments.models.ffn.moe import MoEConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.points.planning import check_effects, effective_id, make_point, read_point
from experiments.sweep.planning import plan_points

MODELS = ("dense", "none", "moe", "moe_fine", "pkm", "peer")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    kind: str = "a"
    size: int = used(Is("kind", "b"), idle=1, default=1)
    late: int | None = added(None, Is("kind", "b", "c"))
    share: float = used(Unset("late"), idle=0.5, default=0.5)
    rate: float = used(Trains("table", "a table"), default=1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Whole:
    part: Part
    model_name: str = "mine"
    init: None = None


def found(part, kinds=()):
    run = Run(config=Whole(part=part), trained=lambda: kinds)
    return {one.name: (one.given, one.why) for one in ineffective(run)}


def test_a_field_has_an_effect_where_its_conditions_hold():
    assert found(Part(kind="b", late=3), ["table"]) == {
        "part.share": (False, "with part.late=3, which counts; set part.late=null")
    }
    names = found(Part(size=2, late=3, share=0.1))
    assert names["part.size"] == (True, "with part.kind=a; set part.kind=b")
    assert names["part.late"] == (True, "with part.kind=a; set part.kind=b or c")
    assert names["part.share"][0]
    assert not names["part.rate"][0]  # several defaults: whether it was given isn't known
    assert {name for name, (given, _) in found(Part()).items() if given} == set()


def test_what_is_left_out_of_a_config_is_what_was_named():
    raw = {"a": {"b": {"c": 1, "d": 2}, "e": 3}, "f": 4, "ab": 5}
    assert without(raw, ["a.b.c", "f", "g.h"]) == {"a": {"b": {"d": 2}, "e": 3}, "ab": 5}
    assert without(raw, ["a.b"]) == {"a": {"e": 3}, "f": 4, "ab": 5}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "beside",
    [
        (),
        ("optim.schedule=wsd", "optim.warmup_tokens=1e4", "optim.decay_tokens=1e4"),
        ("optim.schedule=wsd", "optim.warmup_tokens=1e4", "optim.branch_from=trunk"),
        ("optim.parametrization=mup", "optim=muon", "trunk.ffn_blocks=all"),
        ("ladder=paper",),
    ],
)
def test_what_conf_has_is_given_by_nobody(compose_raw, model, beside):
    """Its defaults are the idle values that the fields declare."""
    check_effects(read_point(compose_raw(f"model={model}", *beside)))


@pytest.mark.parametrize(
    "cls", [Optim, Init, Continual, Data, Ladder, Trunk, MoEConfig, PEERConfig]
)
def test_an_idle_value_is_one_that_the_field_takes(cls):
    for field in dataclasses.fields(cls):
        declared = field.metadata.get(USED)
        if declared is None or declared.idle is VARIES:
            continue
        if field.default is not dataclasses.MISSING:
            assert declared.idle == field.default, field.name


@pytest.fixture
def raw(compose_raw):
    return functools.partial(compose_raw, "model=peer", "budget=1e12")


def test_a_stored_config_is_as_it_was(raw):
    old = raw("optim.decay=.3")
    with pytest.raises(ValueError, match=r"optim\.decay=0\.3 has no effect with optim\.schedule"):
        plan_points([old])
    (point,) = plan_points([old], stored=True)
    assert point.run_id == make_point(old).run_id


def test_a_default_that_is_given_makes_no_other_run(raw):
    ids = [plan_points([raw(*words)])[0].run_id for words in ((), ("optim.decay=.2",))]
    assert len(set(ids)) == 1


def test_points_that_are_one_run_share_an_effective_id(raw):
    def ids(*words):
        (point,) = plan_points([raw(*words)])
        return point.run_id, effective_id(point)

    base = ids()
    n_heads = make_point(raw()).transformer.n_heads
    for same in (
        ("continual=keep",),
        ("optim.lr=0.012", "ladder.lr=1"),
        ("trunk.ffn_blocks=[0]",),  # the middle one of two
        (f"trunk.attention.n_kv_heads={n_heads}",),
    ):
        assert ids(*same)[0] != base[0]
        assert ids(*same)[1] == base[1]
    beside = {
        ids("trunk.beside=true", f"trunk.ffn_blocks={blocks}")[1] for blocks in ("all", "[0,1]")
    }
    assert len(beside) == 1
    everywhere = {ids(f"trunk.ffn_blocks={blocks}")[1] for blocks in ("all", "[1,0]", "[0,1]")}
    assert len(everywhere) == 1
    assert everywhere != {base[1]}
    for other in (
        "optim.table_lr=1",
        "seed=1",
        "optim.table_gradient=rows",
        "model.value_init=normal",
    ):
        assert ids(other)[1] != base[1]


def test_all_conditions_name_fields_that_are_there():
    for cls in (RunConfig, Optim, Init, Continual, Data, Ladder, Trunk, MoEConfig, PEERConfig):
        names = {field.name for field in dataclasses.fields(cls)}
        for field in dataclasses.fields(cls):
            declared = field.metadata.get(USED)
            for condition in () if declared is None else declared.where:
                assert not isinstance(condition, (Is, Unset)) or condition.name in names
