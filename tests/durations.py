"""Which tests are slow and long, and which are the night's: by durations.txt, which says what each
took when it was recorded.

    slow   a twentieth of a second or more      long   0.15 seconds or more (make test-long)

No long test takes more than two seconds of the day, but those of KEPT: what takes longer is the
night's (make test-night), and of a test of many cases the day has as many as that allows, spread
over the list of its cases.

`make durations` runs all but what is marked as the night's, for an hour of a machine that does no
more, and writes the file again. Seconds are of a case, the mean over a test's parameters. What
tests share by a fixture is divided among them. A test that is not in the file is in `make test`.
"""

import json
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).with_name("durations.txt")
SLOW, LONG, DAY = 0.05, 0.15, 2.0  # seconds
KEPT = {
    "tests/analysis/test_command.py::test_isoflop_writes_the_table_the_fits_and_the_figure":
        "the figure that users come for",
    "tests/init/test_growth_runs.py::test_a_grown_run_can_be_scored_loaded_and_grown_again":
        "experts that are added later",
    "tests/init/test_smollm2.py::test_a_run_starts_with_the_same_function_to_the_bit":
        "the one pretrained model of the day",
    "tests/interchange/test_folder.py::test_a_fresh_process_without_us_reads_the_same":
        "an export without us, as its users load it",
    "tests/models/ffn/test_runs.py::test_it_learns_goes_on_as_text_leaves_grows_and_starts_beside_another":
        "each layer from its yaml to its record",
    "tests/optim/test_contract.py::test_a_run_learns_and_goes_on_to_the_bit":
        "each optimizer from its yaml to its record",
    "tests/sweep/test_control.py::test_a_live_sweep_is_cancelled_and_retried_by_commands":
        "the commands beside a sweep that runs",
    "tests/sweep/test_local.py::test_runs_every_point_once_and_then_none":
        "the sweep that users type",
    "tests/sweep/test_working.py::test_two_workers_do_all_points_once_and_the_data_once":
        "workers of one sweep, as they are typed",
    "tests/system/test_two_hosts.py::test_of_two_that_start_at_once_one_trains":
        "leases between two hosts",
    "tests/test_boundaries.py::test_the_analysis_needs_no_package_of_training":
        "the analysis alone, as it is installed",
    "tests/test_export.py::test_a_trained_peer_model_leaves_and_comes_back":
        "a model that is given away",
    "tests/test_json.py::test_a_command_of_the_analysis_prints_the_keys_of_the_page":
        "what scripts read of each command",
    "tests/test_new_layer.py::test_it_trains_generates_leaves_and_can_t_grow":
        "a layer that a user writes",
    "tests/test_packaging.py::test_a_wheel_composes_and_plans_from_any_folder":
        "the wheel",
    "tests/test_run.py::test_one_run_is_recorded_then_skipped":
        "what is done is not done again",
    "tests/test_run.py::test_real_text_trains":
        "the README's first command on its text",
    "tests/test_documented_commands.py::test_every_command_takes_its_words":
        "what documents tell to type",
    "tests/test_documented_commands.py::test_every_run_in_a_document_composes":
        "and the runs that they tell to start",
    "tests/training/test_execute.py::test_an_interrupted_run_ends_as_an_uninterrupted_one_to_the_bit":
        "a run that is resumed",
    "tests/training/test_trunk.py::test_a_fused_run_has_the_loss_of_an_eager_one":
        "the fused trunk from its yaml to its record",
    "tests/training/test_checkpoints.py::test_kill_minus_nine_at_random_moments_changes_nothing":
        "a kill that nothing catches",
    "tests/sweep/test_own_app.py::test_a_killed_sweep_goes_on_from_its_checkpoints":
        "an app of one's own, killed",
    "tests/sweep/test_own_app.py::test_its_command_plans_searches_and_refuses":
        "an app of one's own from its command",
    "tests/sweep/test_clusters.py::test_a_dask_cluster_of_two_nodes":
        "a cluster's scheduler and nodes, started for real",
}  # fmt: skip
_OPTION = "--record-durations"
_PARTS = "durations-{}.part"  # of a worker of xdist, in the folder that the option names


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(_OPTION, metavar="FOLDER", help="note there what each test takes")


def pytest_configure(config: pytest.Config) -> None:
    folder = config.getoption(_OPTION)
    if folder and (worker := os.environ.get("PYTEST_XDIST_WORKER")):
        config.pluginmanager.register(_Recorder(Path(folder) / _PARTS.format(worker)))


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    known = read()
    cases = defaultdict(list)
    for item in items:
        name = item.nodeid.partition("[")[0]
        seconds = known.get(name, 0.0)
        if seconds >= LONG:
            item.add_marker("long")
            cases[name].append(item)
        if seconds >= SLOW:
            item.add_marker("slow")
    for name, own in () if config.getoption(_OPTION) else cases.items():
        for i in set(range(len(own))) - spread(len(own), known[name], name in KEPT):
            own[i].add_marker("night")


def spread(n_cases: int, seconds: float, kept: bool = False) -> set[int]:
    """Cases of a test that are the day's."""
    n = n_cases if kept else min(n_cases, int(DAY / seconds))
    return {i * n_cases // n for i in range(n)}


def read() -> dict[str, float]:
    """Seconds of a case, by the test's name, with its file before it."""
    found, path = {}, ""
    for line in FILE.read_text().splitlines():
        if line.startswith(" "):
            seconds, name = line.split()
            found[f"{path}::{name}"] = float(seconds)
        else:
            path = line
    return found


def write(folder: Path) -> None:
    """File, of what workers noted in a folder; of tests that did not run, what it has."""
    rows = [json.loads(line) for part in sorted(folder.glob(_PARTS.format("*")))
            for line in part.read_text().splitlines()]  # fmt: skip
    users: Counter[str] = Counter(key for _, _, shared in rows for key in shared)
    cost = {key: seconds for _, _, shared in rows for key, seconds in shared.items()}
    cases = defaultdict(list)
    for name, own, shared in rows:
        cases[name].append(own + sum(cost[key] / users[key] for key in shared))
    seconds = read() | {name: sum(each) / len(each) for name, each in cases.items()}
    lines, path = [], ""
    for name, value in sorted(seconds.items()):
        if value >= SLOW:
            file, _, test = name.partition("::")
            lines += [] if file == path else [file]
            lines.append(f" {value:.2f} {test}")
            path = file
    FILE.write_text("\n".join(lines) + "\n")


class _Recorder:
    """Notes of each test its own seconds, and those of the fixtures that it shares."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.cost: dict[str, float] = {}
        self.new = 0.0  # seconds of shared fixtures, made for the test that runs

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[None]:
        start = time.monotonic()
        try:
            return (yield)
        finally:
            if fixturedef.scope != "function":
                self.new += time.monotonic() - start
                self.cost[_key(fixturedef)] = time.monotonic() - start

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: Any) -> Iterator[None]:
        start, self.new = time.monotonic(), 0.0
        try:
            return (yield)
        finally:
            own = time.monotonic() - start - self.new
            keys = {_key(some[-1]) for some in item._fixtureinfo.name2fixturedefs.values()}
            shared = {key: self.cost[key] for key in keys & self.cost.keys()}
            name = item.nodeid.partition("[")[0]
            with self.path.open("a") as file:
                file.write(json.dumps([name, own, shared]) + "\n")


def _key(fixturedef: Any) -> str:
    return f"{fixturedef.baseid}::{fixturedef.argname}"


if __name__ == "__main__":
    write(Path(sys.argv[1]))
