"""GPU of each rank, as Slurm and torchrun give them; none is there, and their number is
pretended.
"""

import lightning.pytorch as pl
import pytest
import torch

from experiments.points.planning import make_point
from experiments.system import agreement
from experiments.system.cards import own_index
from experiments.training import compiled
from experiments.training.checkpoints import RandomState
from experiments.training.execute import execute
from tests.conftest import TINY


class Begun(Exception):
    """Training would begin now."""


@pytest.fixture
def gpus(monkeypatch):
    """gpus(n, SLURM_LOCALID="1", ...): this process sees n, and has that environment. What CUDA is
    asked for, in order: the device that is set, and "start" where something is put on one.
    """
    asked = []

    def pretend(n, **environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        for name, answer in (
            ("is_available", n > 0), ("device_count", n), ("is_bf16_supported", True),
            ("get_device_name", "NVIDIA H100"), ("get_device_capability", (9, 0)),
            ("current_device", 0), ("max_memory_allocated", 0),
        ):  # fmt: skip
            monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)

        def start():
            asked.append("start")
            raise RuntimeError("no GPU here")

        monkeypatch.setattr(
            torch.cuda, "set_device", lambda d: asked.append(getattr(d, "index", d))
        )
        monkeypatch.setattr(torch.cuda, "_lazy_init", start)
        monkeypatch.setattr(torch, "compile", lambda function, **_: function)  # imports for seconds
        return asked

    compiled.why_not.cache_clear()
    yield pretend
    compiled.why_not.cache_clear()
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def point(compose_raw, tmp_path):
    """point("trainer.devices=4", ...): to be called once GPUs are pretended."""

    def plan(*overrides):
        paths = (f"paths.results={tmp_path}", f"paths.cache={tmp_path}")
        return make_point(compose_raw("size=1", "budget=1e9", *TINY, *paths, *overrides))

    return plan


SLURM = {
    "SLURM_PROCID": "7", "SLURM_LOCALID": "3", "SLURM_NODEID": "1", "SLURM_NTASKS": "8",
    "SLURM_NTASKS_PER_NODE": "4", "SLURM_JOB_NAME": "experiments", "SLURM_GPUS_ON_NODE": "4",
}  # fmt: skip
TORCHRUN = {
    "RANK": "7", "LOCAL_RANK": "3", "GROUP_RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4",
    "TORCHELASTIC_RUN_ID": "none",
}  # fmt: skip
# what a rank sees of the 4 of its node
GIVEN = {
    "gpus-per-node": (4, SLURM, 3), "gpus-per-task": (1, SLURM, 0), "torchrun": (4, TORCHRUN, 3),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:trainer.compile=auto runs eagerly")
@pytest.mark.parametrize(("n", "environment", "own"), GIVEN.values(), ids=GIVEN)
def test_a_rank_takes_its_gpu_first_and_lightning_the_same(
    gpus, point, monkeypatch, n, environment, own
):
    asked, trainers = gpus(n, **environment), []

    def fit(trainer, *_, **__):
        trainers.append(trainer)
        raise Begun

    monkeypatch.setattr(pl.Trainer, "fit", fit)
    # the other ranks, which would say what they find on their disks, are not there
    monkeypatch.setattr(agreement, "told_by_all", lambda ranks, mine: [mine])
    with pytest.raises(Begun):
        execute(point("trainer.devices=4", "trainer.num_nodes=2", "ladder.batch_size=8"))
    assert asked[0] == own
    assert set(asked[1:]) == {"start"}  # of the function that is compiled as a test
    (trainer,) = trainers
    strategy = trainer.strategy
    assert strategy.root_device == torch.device("cuda", own)
    assert strategy.determine_ddp_device_ids() == [own]
    assert (trainer.num_devices, trainer.num_nodes) == (4, 2)
    assert (strategy.cluster_environment.world_size(), strategy.local_rank) == (8, 3)


@pytest.mark.parametrize(
    ("n", "environment"), [(2, {}), (1, {}), (1, {"SLURM_GPUS_ON_NODE": "1"}), (0, {})]
)
def test_fewer_gpus_than_ranks_are_refused(gpus, n, environment):
    gpus(n, **environment)
    with pytest.raises(RuntimeError, match=f"trainer.devices=4, and this process sees {n} GPU"):
        own_index(4)


def test_a_run_of_one_process_takes_the_first_that_it_sees(gpus):
    gpus(4, SLURM_LOCALID="2")  # three such runs in one job
    assert own_index(1) == 0


def test_a_run_that_sees_other_gpus_than_before_draws_on(gpus, monkeypatch):
    """A worker sees its own alone, and a rank all of the node."""
    drawn = {"state": torch.tensor([7])}
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: drawn["state"])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state: drawn.update(state=state))
    gpus(4)
    kept = RandomState().state_dict()
    drawn["state"] = torch.tensor([0])
    gpus(1)
    RandomState().load_state_dict(kept)
    assert drawn["state"] == torch.tensor([7])
    others = [torch.tensor([8]), torch.tensor([0]), torch.tensor([0])]
    RandomState().load_state_dict({**kept, "cuda": others})  # as earlier versions kept them
    assert drawn["state"] == torch.tensor([8])
