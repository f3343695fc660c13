"""Fault harness: `make soak MINUTES=30`, or `python -m tests.soak`; docs/soak.md.

Points are trained, disturbed, and finished by the same command; each has to come out as if nothing
had happened. First a fault at every file operation of one model, then random ones for the time that
is left. Exit code 1 if any trial failed.
"""

import argparse
import importlib
import itertools
import os
import random
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: no pool of threads that a fork would lose
os.environ["EXPERIMENTS_TRUST"] = "tests"  # its corpora and layers, in records and manifests

from tests.soak import apps, faults, parents, report, slurm_faults
from tests.soak.enumerated import Enumeration, Spot
from tests.soak.lanes import Job, run_all
from tests.soak.mutants import MUTANTS
from tests.soak.operations import KINDS
from tests.soak.points import MODELS, Points
from tests.soak.processes import warm_up
from tests.soak.storage_faults import unmount_below

for _layer in ("worker", "controller", "rank", "storage", "byte", "clock", "wandb", "host"):
    importlib.import_module(f"tests.soak.{_layer}_faults")  # enter themselves in the registry

_OF_APPS = 0.1  # of the minutes, unless trials are named


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the trials that are asked for; returns the exit code."""
    options = _parse(arguments)
    warm_up()
    if options.mutant in MUTANTS:
        MUTANTS[options.mutant]()
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="soak-", dir=options.folder))
    points = Points(options.cache)
    words = options.only.split(",")
    if not all(word.startswith(apps.NAME) for word in words):
        points.prepare()
        if options.minutes or options.only:  # fully enumerated points start from none
            parents.make(points)
    print(f"seed {options.seed}; folders in {folder}", flush=True)
    start, outcomes = time.monotonic(), []
    trials = itertools.chain(
        run_all(_slurm_jobs(options, points, folder), folder, 1),
        run_all(_app_jobs(options, folder), folder, options.jobs),
        run_all(_jobs(options, points, folder), folder, options.jobs),
    )
    for outcome in trials:
        outcomes.append(outcome)
        if outcome.problems:
            print(report.failure(outcome, options.seed), flush=True)
            if options.stop:
                break
        if len(outcomes) % 100 == 0:
            seconds = time.monotonic() - start
            print(report.last_line(outcomes, seconds, options.seed), flush=True)
    unmount_below(folder)
    print(report.table(outcomes))
    print(report.last_line(outcomes, time.monotonic() - start, options.seed))
    return int(any(outcome.problems for outcome in outcomes))


def _jobs(options: argparse.Namespace, points: Points, folder: Path) -> Iterator[Job]:
    """Trials: those named, or the enumerated and then random ones until the time is up."""
    only = options.only.split(",") if options.only else []
    named = [Spot.parse(name) for name in only if ":" in name]
    models = {spot.model for spot in named} or set(options.enumerate.split(",")) - {""}
    if named or not only:
        enumeration = Enumeration(points, folder / "begin", sorted(models))
        turn = options.seed if options.by_turns else None
        for spot in named or enumeration.spots(options.kinds.split(","), turn):
            rng = random.Random(f"{options.seed} {spot.name}")
            yield Job(
                name=spot.name, run=lambda own, spot=spot, rng=rng: enumeration.run(spot, own, rng)
            )
    deadline = time.monotonic() + 60 * options.minutes
    for name in _names(only):
        if time.monotonic() > deadline and name not in only:
            return
        yield Job(
            name=name,
            run=lambda own, name=name: faults.random_trial(name, options.seed, points, own),
        )


def _names(only: Sequence[str]) -> Iterator[str]:
    """Of random trials: those given, or without end those of the parts given, or of all."""
    own = [word for word in only if "slurm" not in word and not word.startswith(apps.NAME)]
    parts = [word for word in own if word in faults.parts()]
    yield from (word for word in own if ":" not in word and word not in parts)
    for n in itertools.count(1) if parts or not only else ():
        yield from [f"{part}-{n}" for part in parts] or [str(n)]


def _app_jobs(options: argparse.Namespace, folder: Path) -> Iterator[Job]:
    """Sweeps of an own app: those named, or for a share of the time."""
    only = options.only.split(",") if options.only else [apps.NAME]
    names = [word for word in only if word.startswith(apps.NAME)]
    if not names or not (options.only or options.minutes):
        return
    parts = [word for word in names if word in apps.parts()]
    share = 1.0 if len(names) == len(only) and options.only else _OF_APPS
    made = apps.Apps(folder / "undisturbed", options.mutant)
    deadline = time.monotonic() + 60 * options.minutes * share
    for n in itertools.count():
        for name in [f"{part}-{n}" for part in parts] if n else set(names) - set(parts):
            if n and time.monotonic() > deadline:
                return
            yield Job(name=name, run=lambda own, name=name: made.trial(name, options.seed, own))
        if not parts:
            return


def _slurm_jobs(options: argparse.Namespace, points: Points, folder: Path) -> Iterator[Job]:
    """Sweeps on a cluster that is started for them; named slurm-1 and so on."""
    wanted = [name for name in options.only.split(",") if name.startswith("slurm-")]
    if options.slurm and not options.only:
        wanted = [f"slurm-{i + 1}" for i in range(options.slurm)]
    if not wanted:
        return
    with slurm_faults.daemons(folder / "cluster") as why_not:
        if why_not:
            print(f"no faults of Slurm: {why_not}", flush=True)
            return
        for name in wanted:
            yield Job(
                name=name,
                run=lambda own, name=name: slurm_faults.slurm_trial(
                    name, options.seed, points, own, folder / "cluster"
                ),
            )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="of random faults")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="default: drawn")
    parser.add_argument("--only", default="", help="trials, layers, lanes or models, with commas")
    parser.add_argument(
        "--enumerate", default="noisy", metavar="MODELS",
        help=f"whose file operations are all tried: of {','.join(MODELS)}, or nothing",
    )  # fmt: skip
    parser.add_argument("--kinds", default=",".join(KINDS), help="of faults at file operations")
    parser.add_argument(
        "--by-turns", action="store_true", help="one kind an operation; the seed says which first"
    )
    parser.add_argument(
        "--mutant", default="", choices=["", *MUTANTS, *apps.mistakes()], help="put a mistake in"
    )
    parser.add_argument("--stop", action="store_true", help="end at the first failed trial")
    parser.add_argument("--slurm", type=int, default=0, metavar="N", help="sweeps on real daemons")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="at a time")
    parser.add_argument("--folder", type=Path, default=None, help="for trials (default: in /tmp)")
    cache = Path(os.environ.get("EXPERIMENTS_CACHE", ".cache")) / "soak"
    parser.add_argument("--cache", type=Path, default=cache.resolve(), help="for references")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
