"""What is asked of sbatch; with real daemons: tests/slurm."""

from experiments.sweep.slurm import Resources, in_arrays


def test_resources_become_sbatchs_options():
    resources = Resources(
        partition="gpu", time="2:00:00", max_parallel=3, gpus_per_node=4, extra=("--exclusive",)
    )
    options = resources.options(devices=4, num_nodes=2, n_tasks=10)
    assert options == [
        "--partition=gpu", "--time=2:00:00", "--gpus-per-node=4", "--nodes=2",
        "--ntasks-per-node=4", "--signal=USR1@120", "--array=0-9%3", "--requeue",
        "--open-mode=append", "--exclusive",
    ]  # fmt: skip
    assert [len(part) for part in in_arrays(["x"] * 2500)] == [1000, 1000, 500]
