"""Run ids: what is part of them, and that those of runs on disk stay what they are."""

import dataclasses
from dataclasses import dataclass

import pytest

from experiments.config.fields import added
from experiments.config.paths import conf_dir
from experiments.config.reading import read
from experiments.config.run_config import read_run_config
from experiments.config.schema import Ladder, RunConfig
from experiments.data.folders import identity as identity_of
from experiments.models.ffn import dense
from experiments.models.ffn.dense import DenseConfig
from experiments.points import identity
from experiments.points.planning import compute_run_id, make_point
from experiments.records.files import find_records, read_record
from tests.conftest import Nursery

STUDY = conf_dir().parent / "results" / "study"
BALANCE_LOSS = (
    "model=moe",
    "model.routing=token_choice",
    "model.balance=loss",
    "model.balance_rate=1e-2",
)


@pytest.mark.parametrize("sweep", ["causes", "experts", "isoflop", "tuning"])
def test_the_ids_of_committed_records_are_those_of_their_configs(sweep):
    records = [read_record(path) for path in find_records(STUDY / sweep)]
    assert len(records) > 20
    for record in records:
        assert compute_run_id(record.config) == record.run_id


@pytest.mark.parametrize("given", [(), ("optim.muon_lr=2",)])
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_an_optimizer_from_before_it_had_a_target_is_the_same_run(compose_raw, name, given):
    """Then `matrices` chose it, and each config had the settings of both."""
    raw = compose_raw("model=dense", f"optim={name}", *(given if name == "muon" else ()))
    both = compose_raw("model=dense", "optim=muon")["optim"] | raw["optim"]
    del both["_target_"]
    older = [{**raw, "optim": {**both, "matrices": name}}]
    if name == "adamw":  # and before that there was no choice
        older += [{**raw, "optim": {k: v for k, v in raw["optim"].items() if k != "_target_"}}]
    for old in older:
        assert compute_run_id(old) == compute_run_id(raw)
        assert read_run_config(old).optim == read_run_config(raw).optim
    with pytest.raises(ValueError, match=r"optim\.matrices='lion' is not one of adamw, muon; give"):
        compute_run_id({**raw, "optim": {**both, "matrices": "lion"}})
    with pytest.raises(ValueError, match="now a choice of conf/optim; write optim=muon"):
        compute_run_id({**raw, "optim": {**raw["optim"], "matrices": "muon"}})


def _id(raw, micro_batch_size=None, devices=1):
    trainer = {**raw["trainer"], "micro_batch_size": micro_batch_size, "devices": devices}
    return compute_run_id({**raw, "trainer": trainer})


def _ids(raw):
    """Of runs that see all 8, 4, 4 and 2 sequences of a batch in a process's forward pass."""
    assert raw["ladder"]["batch_size"] == 8
    assert _id(raw, 8) == _id(raw)  # the default, given explicitly
    return [_id(raw), _id(raw, 4), _id(raw, None, 2), _id(raw, 2, 2)]


@pytest.mark.parametrize("how", [("model=moe", "n_experts=4"), BALANCE_LOSS])
def test_what_one_process_sees_at_once_is_part_of_the_id_of_expert_choice_and_balance_loss(
    compose_raw, how
):
    whole, half, half_by_ranks, quarter = _ids(compose_raw("ladder.batch_size=8", *how))
    assert half == half_by_ranks
    assert len({whole, half, quarter}) == 3


@pytest.mark.parametrize("model", ["peer", "pkm"])
def test_what_all_processes_see_at_once_is_part_of_the_id_of_batch_norm(compose_raw, model):
    raw = compose_raw("ladder.batch_size=8", f"model={model}")
    whole, half, whole_by_ranks, half_by_both = _ids(raw)
    assert whole_by_ranks == whole  # batch norm is over all ranks
    assert half_by_both == half  # two ranks of two sequences: four meet
    assert half != whole


@pytest.mark.parametrize(
    "how",
    [
        ("model=dense",),
        ("model=none",),
        ("model=moe_fine",),  # balanced by a bias, by the load of all processes
        ("model=moe", "model.routing=token_choice"),
        ("model=peer", "model.query_norm=layer"),
        ("model=pkm", "model.query_norm=none"),
    ],
)
def test_a_layer_that_mixes_no_tokens_has_one_id(compose_raw, how):
    assert len(set(_ids(compose_raw("ladder.batch_size=8", *how)))) == 1


def test_the_layers_of_the_other_blocks_count_where_there_are_such_blocks(compose_raw):
    raw = compose_raw("ladder.batch_size=8", "model=dense", "size=2")
    moe = {"_target_": "experiments.models.ffn.moe.MoEConfig", "n_experts": 4}
    for blocks, n_ids in (("middle", 3), ("all", 1)):
        trunk = {"ffn_blocks": blocks, "base_ffn": moe}
        assert len(set(_ids({**raw, "trunk": trunk}))) == n_ids


def test_capacity_is_checked_against_what_a_forward_pass_sees(compose_raw):
    """256 tokens: 512 experts of one token each would be twice the counted FLOPs."""
    raw = compose_raw("model=moe", "n_experts=512", "size=2", "budget=1e12", "ladder.batch_size=8")
    assert raw["data"]["seq_len"] == 256

    def check(**trainer):
        make_point({**raw, "trainer": {**raw["trainer"], **trainer}})

    check()
    check(micro_batch_size=2)
    for split in ({"micro_batch_size": 1}, {"devices": 4, "num_nodes": 2}):
        with pytest.raises(ValueError, match=r"n_experts=512 0\.5 of the 256 tokens of a forward"):
            check(**split)


@dataclass(frozen=True, kw_only=True)
class LaterDense(DenseConfig):
    dropout: float = added(0.0)


@dataclass(frozen=True, kw_only=True)
class LaterLadder(Ladder):
    stages: int | None = added(None)


@dataclass(frozen=True, kw_only=True)
class LaterRunConfig(RunConfig):
    ladder: LaterLadder
    note: str = added("none")
    shape: tuple[int, ...] = added((1, 2))


@dataclass(frozen=True, kw_only=True)
class LaterNursery(Nursery):
    case: str = added("lower")


@pytest.fixture
def later(monkeypatch, compose_raw):
    """Id before the fields came, and a function of a changed config to the id with them."""
    raw = compose_raw("model=dense")
    before = compute_run_id(raw)
    monkeypatch.setattr(dense, "DenseConfig", LaterDense)
    monkeypatch.setattr(identity, "RunConfig", LaterRunConfig)
    monkeypatch.setattr("experiments.config.run_config.RunConfig", LaterRunConfig)
    return raw, before


def test_a_later_field_at_its_default_leaves_the_id_as_it_was(later):
    raw, before = later
    assert compute_run_id(raw) == before  # a config from before
    given = {
        **raw,
        "note": "none",
        "shape": [1, 2],
        "model": {**raw["model"], "dropout": 0},
        "ladder": {**raw["ladder"], "stages": None},
    }
    assert compute_run_id(given) == before


@pytest.mark.parametrize(
    ("node", "values"),
    [
        (None, {"note": "other"}),
        (None, {"shape": [2, 1]}),
        ("model", {"dropout": 0.1}),
        ("ladder", {"stages": 0}),
    ],
)
def test_a_later_field_at_another_value_is_part_of_the_id(later, node, values):
    raw, before = later
    changed = {**raw, **values} if node is None else {**raw, node: {**raw[node], **values}}
    assert compute_run_id(changed) != before


def test_a_config_from_before_reads_as_the_default(later):
    raw, _ = later
    config = read_run_config(raw)
    assert config.note == "none"
    assert config.model.dropout == 0.0
    assert read(LaterLadder, raw["ladder"]).stages is None


def test_other_defaults_are_part_of_the_id(compose_raw):
    """As they always were: only a field that `added` declares may be left out."""
    raw = compose_raw("model=dense")
    assert raw["model"]["activation"] == "gelu"
    less = {k: v for k, v in raw["model"].items() if k != "activation"}
    assert compute_run_id({**raw, "model": less}) != compute_run_id(raw)


def test_a_later_field_of_a_corpus_leaves_its_identity_as_it_was():
    before = {"kind": "LaterNursery", "n_documents": 200}
    assert identity_of(LaterNursery()) == before
    assert identity_of(LaterNursery(case="upper")) == {**before, "case": "upper"}
    assert dataclasses.replace(LaterNursery(), case="lower") == LaterNursery()
