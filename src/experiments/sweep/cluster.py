"""A sweep on Slurm: planned here, submitted as arrays, and left to run."""

from collections.abc import Mapping, Sequence

from experiments.point import Point
from experiments.sweep import slurm
from experiments.sweep.plan_table import plan_table
from experiments.sweep.planning import (
    ELSEWHERE,
    Raw,
    Todo,
    assumed_rate,
    choose,
    plan_points,
    prepare_all,
)
from experiments.sweep.submission import entered
from experiments.sweep.trunks import waits


def submit_sweep(raws: Sequence[Raw], resources: slurm.Resources, *, stored: bool = False) -> None:
    """Submits what is neither finished nor queued nor running, prints the jobs and returns.

    Text is fetched and tokenized here, on a machine that may have a network when nodes have none;
    a stream's vocabulary too. stored: as of plan_points. Raises ValueError before anything is
    written for a bad point or a machine without Slurm, and RuntimeError with Slurm's words if it
    refuses.
    """
    points = plan_points(raws, stored=stored)
    config = points[0].config
    if config.dry_run:
        print(plan_table(points, assumed_rate(points[0])))
        return
    slurm.check()
    submit_points(points, resources)


def submit_points(points: Sequence[Point], resources: slurm.Resources) -> None:
    """As submit_sweep, of planned points of one sweep. Exits as _exit_unless_submitted."""
    name = points[0].config.sweep
    prepare_all(choose(points).run)
    with entered(points) as submission:
        todo = submission.todo
        if submission.code is not None:
            jobs = submit(todo.run, submission.code.name, resources, todo.tasks)
            print(f"sweep {name}: {len(todo.run)} runs submitted, Slurm job {', '.join(jobs)}")
    print(f"status: {status_command(points[0])}")
    _exit_unless_submitted(todo)


def status_command(point: Point) -> str:
    """The command that says where a point's sweep stands."""
    results = point.config.paths.results
    where = "" if results == "results" else f" --results {results}"
    return f"python -m experiments.status {point.config.sweep}{where}"


def _exit_unless_submitted(todo: Todo) -> None:
    """Exits with 1 if a failed point was left, else with 3 if one is neither done nor will Slurm
    start it by itself: another process has it, or Slurm holds it.
    """
    if todo.failed:
        raise SystemExit(1)
    if todo.held or todo.running:
        raise SystemExit(ELSEWHERE)


def submit(
    points: Sequence[Point],
    code: str,
    resources: slurm.Resources,
    trunks: Mapping[str, str] | None = None,
) -> list[str]:
    """An array for the points of each number of devices; what is longest goes first. Branches whose
    trunk is among them, or queued, are an array for each trunk, which waits for its task to end.

    trunks: the tasks of those that are queued, by run id.
    """
    tasks = dict(trunks or {})
    by_trunk: dict[str | None, list[Point]] = {None: []}
    ours = {point.run_id for point in points} | set(tasks)
    for point in points:
        trunk = point.branch.trunk_id if point.branch is not None and waits(point) else None
        by_trunk.setdefault(trunk if trunk in ours else None, []).append(point)
    jobs = []
    for trunk, together in by_trunk.items():
        by_ranks: dict[tuple[int, int], list[Point]] = {}
        for point in sorted(together, key=lambda p: (not p.is_trunk, -p.own_flops)):
            by_ranks.setdefault((point.ranks.devices, point.ranks.num_nodes), []).append(point)
        for group in by_ranks.values():
            for part in slurm.in_arrays(group):
                job = _submit_array(part, code, resources, after=tasks.get(trunk or ""))
                tasks |= {point.run_id: f"{job}_{i}" for i, point in enumerate(part)}
                jobs.append(job)
    return jobs


def _submit_array(
    points: Sequence[Point], code: str, resources: slurm.Resources, after: str | None
) -> str:
    """The job of an array over points of one number of devices."""
    submission = slurm.Submission(
        name=slurm.new_name(),
        run_ids=tuple(point.run_id for point in points),
        code=code,
        devices=points[0].ranks.devices,
        num_nodes=points[0].ranks.num_nodes,
        resources=resources,
        max_retries=max(p.config.trainer.max_retries for p in points),
        after=after,
    )
    return slurm.submit(points[0].run_dir.parent, submission)
