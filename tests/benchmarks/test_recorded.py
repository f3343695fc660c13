"""Tables of docs/performance.md and of its page of a Zen 3 are those of results/performance."""

import statistics

import pytest

from tests.benchmarks.recorded import FILES, TABLES, parts
from tests.conftest import REPOSITORY

PAGES = ("performance", "performance_zen_3", "kernels")
LINES = [
    line for page in PAGES for line in (REPOSITORY / "docs" / f"{page}.md").read_text().splitlines()
]


@pytest.mark.parametrize("name", TABLES)
def test_each_row_is_in_the_document(name):
    rows = TABLES[name]()
    assert rows
    for cells in rows:
        assert f"| {' | '.join(cells)} |" in LINES


@pytest.mark.parametrize("name", FILES)
def test_the_records_are_of_clean_code_and_their_medians_of_their_repeats(name):
    for about in parts(name):
        assert about["git_dirty"] is False
        for one in about.get("comparisons", []):
            for contender in one["contenders"]:
                if "repeats" not in contender:  # of memory
                    continue
                quiet = [r["seconds"] for r in contender["repeats"] if r["quiet"]]
                every = [r["seconds"] for r in contender["repeats"]]
                assert contender["median_seconds"] == pytest.approx(
                    statistics.median(quiet or every)
                )


@pytest.mark.parametrize(("name", "where"), [("layer", "Xeon"), ("layer, Zen 3", "Zen 3")])
def test_what_is_said_of_peer_s_gain(name, where):
    (rows,) = [row for row in TABLES[name]() if row[0] == "cpp rows"]
    low, high = sorted(float(rows[i].split()[0]) for i in (2, 5))
    said = {"Zen 3": "- PEER is {} to {} times as fast", "Xeon": "beside {} to {} on the Xeon"}
    assert said[where].format(f"{low:.0f}", f"{high:.0f}") in "\n".join(LINES)
