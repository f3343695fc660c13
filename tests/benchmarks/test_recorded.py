"""docs/performance.md's tables with records are those of results/performance."""

import statistics

import pytest

from tests.benchmarks.recorded import layers, read, trunks
from tests.conftest import REPOSITORY

LINES = (REPOSITORY / "docs" / "performance.md").read_text().splitlines()


@pytest.mark.parametrize("rows", [layers, trunks])
def test_each_row_is_in_the_document(rows):
    for cells in rows():
        assert f"| {' | '.join(cells)} |" in LINES


@pytest.mark.parametrize("name", ["layer_1024", "layer_4096", "trunk"])
def test_the_records_are_of_clean_code_and_their_medians_of_their_repeats(name):
    found = read(name)
    for about in found.get("parts", [found]):
        assert about["git_dirty"] is False
        for one in about["comparisons"]:
            for contender in one["contenders"]:
                quiet = [r["seconds"] for r in contender["repeats"] if r["quiet"]]
                every = [r["seconds"] for r in contender["repeats"]]
                assert contender["median_seconds"] == pytest.approx(
                    statistics.median(quiet or every)
                )


def test_what_is_said_of_peer_s_gain():
    times = {name: (float(a.split()[0]), float(b.split()[0])) for name, _, a, _, b in layers() if a}
    low, high = min(times["cpp rows"]), max(times["cpp rows"])
    assert f"- PEER is {low:.0f} to {high:.0f} times as fast" in "\n".join(LINES)
