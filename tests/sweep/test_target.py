"""A sweep that is planned on a machine without a GPU, for a cluster's cards: its table, what is
refused, what Slurm gets, and what its task says where there is no card.
"""

import pytest
import torch

from experiments.language.estimate import assumed_rate
from experiments.language.plan_table import plan_table
from experiments.language.planning import check_planned
from experiments.points import point as run_point
from experiments.points.planning import make_point
from experiments.records.record import flat_row
from experiments.sweep import task
from experiments.sweep.many_runs import run_sweep
from experiments.sweep.queues.local import Local
from experiments.sweep.queues.slurm import Slurm
from experiments.system.text_table import duration
from experiments.training.execute import planned_record

PAPER = ("ladder=paper", "model=peer", "n_experts=1048576", "size=8", "budget=6e18", "data=c4")


@pytest.fixture(autouse=True)
def no_card(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def paper(compose_raw, tmp_path):
    """paper("cluster=h100", ...): a point of the paper's size."""

    def point(*overrides):
        return make_point(compose_raw(*PAPER, f"paths.results={tmp_path}", *overrides))

    return point


def table_of(point):
    return plan_table([point], assumed_rate(point)).splitlines()


def test_the_plan_is_of_the_card(paper):
    point = paper("cluster=h100", "trainer.micro_batch_size=4")
    lines = table_of(point)
    assert lines[0] == "Planned for H100 of 79.1 GiB, bf16-mixed:"
    (total,) = (line for line in lines if line.startswith("1 run, "))
    assert total.endswith(
        "one after the other at 247 TFLOP/s and 3.35 TB/s of memory, "
        "on H100 of 79.1 GiB, bf16-mixed"
    )
    cluster = point.config.cluster
    products = point.plan.planned_flops / (0.25 * cluster.bf16_flops)
    a_parameter = 28 + 31 * 12  # bytes: AdamW's, and sums of 32 micro-batches
    moved = a_parameter * point.plan.cost.n_params + 6 * 137.4e9  # and rows of two tables
    seconds = products + point.plan.n_steps * moved / cluster.bandwidth
    assert f"about {duration(seconds)} one after" in total
    assert not any("do not fit" in line for line in lines)


@pytest.mark.parametrize(("width", "share"), [(16, 0.177), (64, 0.454), (256, 0.746)])
def test_on_a_cpu_the_rate_grows_with_the_width(make, monkeypatch, width, share):
    monkeypatch.setattr(run_point, "measured_peak_flops", lambda *_, **__: 1e11)
    point = make(f"ladder.d_per_layer={width}", "budget=1e12", "trainer.accelerator=cpu")
    assert point.transformer.d_model == width
    assert assumed_rate(point) == pytest.approx(share * 1e11, rel=5e-3)


def test_cards_of_several_nodes_share_the_work(paper):
    lines = table_of(paper("cluster=a100_80", "trainer.devices=4", "trainer.num_nodes=2"))
    assert lines[0] == "Planned for 8 x A100 of 79.1 GiB, bf16-mixed:"
    assert any(" of memory each, on 8 x A100" in line for line in lines)
    given = ("trainer.devices=4", "trainer.flops_per_second=1e14")
    text = "\n".join(table_of(paper("cluster=a100_80", *given)))
    assert "about 4.2 h one after the other at 100 TFLOP/s each, on 4 x A100" in text


def test_a_plan_that_a_card_has_no_room_for_is_refused(paper, slurm, capsys):
    point = paper("cluster=t4")
    assert "1 of 1 runs do not fit, and would be refused: peer N=1048576 size=8" in table_of(point)
    with pytest.raises(ValueError, match=r"on T4 of 14\.5 GiB, 32-true, needs about .* 14\.5 GiB"):
        run_sweep([point.raw], Slurm())
    assert not point.run_dir.parent.exists()
    check_planned([paper("cluster=h200", "trainer.micro_batch_size=4")])
    check_planned([paper()])  # on this machine its queue looks


@pytest.fixture
def slurm(programs):
    """Folder of programs in Slurm's place; sbatch keeps its arguments in the file `asked`."""
    keep = 'printf "%s\\n" "$@" >"$(dirname "$0")/asked"; echo 28'
    return programs(sbatch=keep, squeue="true", sacct="exit 1")


def test_a_login_node_without_a_card_submits_for_cards(make, sweep, slurm, capsys):
    point = make("cluster=h100")
    assert point.run_id == make().run_id
    run_sweep([point.raw], Slurm(gpus_per_node=1))
    assert "1 runs submitted, Slurm job 28" in capsys.readouterr().out
    assert "--gpus-per-node=1" in (slurm / "asked").read_text().split()
    (submission,) = (sweep / "slurm").glob("*.json")
    assert point.run_id in submission.read_text()
    assert task.main([str(submission), "0"]) == 1  # on a node without a card
    assert capsys.readouterr().err.startswith("error: planned for a GPU, and ")
    assert not (point.run_dir / "record.json").exists()
    with pytest.raises(ValueError, match="torch sees no"):
        run_sweep([point.raw], Local())


def test_a_record_says_what_auto_became(make, monkeypatch):
    planned = make("cluster=h100")
    for what, answer in (("is_available", True), ("get_device_name", "NVIDIA H100 80GB HBM3")):
        monkeypatch.setattr(torch.cuda, what, lambda *_, answer=answer: answer)
    row = flat_row(planned_record(planned))
    names = ("accelerator", "precision", "device", "planned_card", "kernel")
    assert tuple(row[name] for name in names) == (
        "cuda", "bf16-mixed", "NVIDIA H100 80GB HBM3", "H100", None,
    )  # fmt: skip
    here = flat_row(planned_record(make("trainer.accelerator=cpu", "model=peer", "n_experts=64")))
    assert (here["accelerator"], here["precision"], here["planned_card"]) == (
        "cpu", "32-true", None,
    )  # fmt: skip
    assert here["kernel"].split()[0] in ("cpp", "torch")
