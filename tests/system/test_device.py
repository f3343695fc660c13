"""Device of a run: this machine's, or a cluster's card that is planned for. No card is needed:
what torch would say of one is put in its place.
"""

from types import SimpleNamespace

import pytest
import torch

from experiments.config.paths import conf_dir
from experiments.finished import model
from experiments.points.planning import here, make_point
from experiments.training.execute import execute
from tests.conftest import TINY
from tests.records.test_record import record

CARDS = sorted(path.stem for path in (conf_dir() / "cluster").glob("*.yaml"))
WITHOUT_BF16 = {"v100": (7, 0), "t4": (7, 5)}


@pytest.fixture
def card(monkeypatch):
    """card("NVIDIA H100", (9, 0), gib=79.1): the machine has that one from now on."""

    def put(name="NVIDIA H100 80GB HBM3", capability=(9, 0), gib=79.2):
        properties = SimpleNamespace(total_memory=int(gib * 2**30))
        for what, answer in (
            ("is_available", True),
            ("is_bf16_supported", True),  # with emulation, whatever the card
            ("get_device_capability", capability),
            ("get_device_name", name),
            ("get_device_properties", properties),
        ):
            monkeypatch.setattr(torch.cuda, what, lambda *_, answer=answer: answer)

    return put


@pytest.fixture
def no_card(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def point(compose_raw, tmp_path):
    """point("cluster=h100", ...): of a tiny model."""

    def plan(*overrides):
        places = (f"paths.results={tmp_path}", f"paths.cache={tmp_path}")
        return make_point(compose_raw("size=2", "budget=2e10", *TINY, *places, *overrides))

    return plan


def device(point):
    return point.device.accelerator, point.device.precision


def test_auto_is_what_the_machine_has(point, no_card):
    assert device(point("trainer.accelerator=auto")) == ("cpu", "32-true")


@pytest.mark.parametrize("capability", [(7, 0), (7, 5), (8, 0), (8, 9), (9, 0), (10, 0)])
def test_auto_takes_bfloat16_where_the_card_computes_it(point, card, capability):
    """torch's own answer counts emulation, which is slower than float32."""
    card(capability=capability)
    has_bf16 = capability >= (8, 0)
    assert device(point()) == ("cuda", "bf16-mixed" if has_bf16 else "32-true")
    assert device(point("trainer.precision=bf16-mixed")) == ("cuda", "bf16-mixed")
    assert device(point("trainer.precision=32-true")) == ("cuda", "32-true")


def test_gpu_is_another_word_for_cuda(point, card):
    card()
    assert point("trainer.accelerator=gpu").device == point("trainer.accelerator=cuda").device


@pytest.mark.parametrize("name", [name for name in CARDS if name != "none"])
def test_a_card_that_is_not_here_is_planned_for(point, no_card, name):
    planned = point(f"cluster={name}")
    expected = "32-true" if name in WITHOUT_BF16 else "bf16-mixed"
    assert device(planned) == ("cuda", expected)
    cluster = planned.config.cluster
    assert planned.device.memory == pytest.approx(cluster.memory_gib * 2**30)
    rate = cluster.float32_flops if name in WITHOUT_BF16 else cluster.bf16_flops
    assert planned.device.sheet_flops == planned.peak_flops() == rate
    in_float32 = point(f"cluster={name}", "trainer.precision=32-true")
    assert in_float32.peak_flops() == cluster.float32_flops
    assert planned.run_id == in_float32.run_id == point().run_id


def test_what_contradicts_a_cluster_is_refused(point, no_card):
    with pytest.raises(ValueError, match="accelerator=cpu with a cluster of H100: leave out one"):
        point("cluster=h100", "trainer.accelerator=cpu")
    with pytest.raises(ValueError, match=r"devices=4 is above cluster\.cards_per_node=2; set tra"):
        point("cluster=h100", "cluster.cards_per_node=2", "trainer.devices=4")
    assert device(point("cluster=h100", "trainer.accelerator=gpu")) == ("cuda", "bf16-mixed")


def test_a_run_planned_for_a_card_needs_one(point, no_card):
    planned = point("cluster=h100")
    with pytest.raises(ValueError, match=r"planned for H100 of 79\.1 GiB, and torch sees no GPU"):
        here(planned)
    with pytest.raises(ValueError, match="torch sees no GPU"):
        execute(planned)
    assert not planned.run_dir.exists()


def test_the_card_that_was_planned_for_says_nothing(point, card):
    card()
    planned = point("cluster=h100")
    found = here(planned)
    assert found.device.card is None
    assert device(found) == device(planned)
    assert here(found) is found


def test_another_card_than_planned_for_is_a_warning_unless_the_run_does_not_fit(point, card):
    planned = point("cluster=h100")
    card("Tesla V100-SXM2-32GB", (7, 0), gib=31.7)
    with pytest.warns(UserWarning, match=r"planned for H100 of 79\.1 GiB, and runs on Tesla V100"):
        found = here(planned)
    assert device(found) == ("cuda", "32-true")
    assert found.plan.memory == point().plan.memory  # in float32
    assert found.run_id == planned.run_id
    card("NVIDIA H100 80GB HBM3 MIG 1g.10gb", gib=9.5)  # the same name, and a part of it
    with pytest.warns(UserWarning, match=r"of 9\.5 GiB"):
        here(planned)
    card("Tesla T4", (7, 5), gib=0.2)
    with pytest.raises(ValueError, match=r"now on Tesla T4, needs about 0\.4 GiB .* are 0\.2"):
        here(planned)


def test_a_finished_run_is_read_where_it_is(point, no_card, monkeypatch, tmp_path):
    monkeypatch.setattr(model, "_vocabulary", lambda *_: None)
    found = model.read_run(tmp_path, record(config=dict(point("cluster=h100").raw)))
    assert device(found.draft) == ("cpu", "32-true")


def test_ids_do_not_depend_on_the_machine(point, card, monkeypatch):
    """Same overrides, where there is no card, one without bfloat16, and one with it."""
    layers = [("model=dense",), ("model=moe", "n_experts=4"), ("model=peer", "n_experts=64")]
    settings = [*layers, ("model=moe", "n_experts=4", "trainer.micro_batch_size=2")]

    def ids():
        return [point(*overrides).run_id for overrides in settings]

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    without = ids()
    for capability in ((7, 0), (9, 0)):
        card(capability=capability)
        assert ids() == without
    assert len({*without}) == len(without)
