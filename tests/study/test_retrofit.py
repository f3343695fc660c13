"""docs/retrofit.md's numbers are those of the committed records."""

import numpy as np
import pytest

from analysis import numbers
from analysis.adaptation import columns_of_starts, compare_adaptations
from analysis.table.load import load_table
from experiments.points.planning import compute_run_id
from experiments.records.files import find_records, read_record
from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "results" / "retrofit"
T_2 = 4.302652729696142  # of Student's t at two degrees of freedom, 95 %
TEXT = (REPOSITORY / "docs" / "retrofit.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("sweep", ["recipes", "hpo"])
def test_the_table_is_that_of_the_records(sweep):
    table = load_table(FOLDER / sweep, keep=columns_of_starts("wikitext2"))
    found = compare_adaptations(table)
    rows = TEXT[TEXT.index(f"| {sweep} | seeds") :].partition("\n\n")[0].splitlines()
    assert len(rows) == 2 + len(found.ways)
    for way in found.ways:
        cells = (
            str(way.n_seeds),
            numbers.count(way.n_trained_params),
            numbers.flops(way.flops),
            numbers.with_interval(*way.gain, signed=True),
            numbers.with_interval(*way.change, signed=True),
        )
        assert any(row.endswith(f"| {' | '.join(cells)} |") for row in rows), (way.way, cells)
    assert f"from {found.ways[0].before:.3f}" in rows[0]


def test_the_losses_of_what_is_instead_of_an_ffn_are_those_of_the_records():
    rows = TEXT[TEXT.index("### Instead of an FFN") :].partition("\n- ")[0]
    whole = float(rows.partition("| its own FFN | 0 | ")[2].partition(" ")[0])
    starts = {}
    for path in find_records(FOLDER / "replace"):
        record = read_record(path)
        asked = record.config["init"]["distil_tokens"]
        n_tokens = record.init["distilled"]["14"]["n_tokens"] if asked else 0  # whole batches
        assert n_tokens >= asked
        starts.setdefault(n_tokens, []).append(record.before["validation"]["loss"])
        flops = numbers.flops(record.init["flops"]) if n_tokens else "0"
        says = f"distilled on {n_tokens:,} tokens" if n_tokens else "as it is seeded"
        assert f"PEER{',' if n_tokens else ''} {says} | {flops} | " in rows
    for losses in starts.values():
        assert len(losses) == 3
        mean, half = np.mean(losses), T_2 * np.std(losses, ddof=1) / 3**0.5
        more = mean - whole
        interval = numbers.with_interval(more, more - half, more + half, signed=True)
        assert f"| {mean:.4f} | {interval} |" in rows


def test_runs_have_the_ids_of_their_configs_and_started_exact():
    records = [read_record(path) for path in find_records(FOLDER)]
    assert len(records) > 20
    for record in records:
        assert compute_run_id(record.config) == record.run_id
        assert record.status == "done"
        if record.sweep != "retrofit/tuning" and record.init["how"] in ("beside", "copies"):
            assert record.init["exact"] is True


@pytest.mark.parametrize("model", ["peer", "dense", "LoRA", "full"])
def test_each_way_s_rate_is_the_best_of_the_tuning_and_no_edge(model):
    """The rates of conf/experiment/retrofit.yaml are between two worse ones of 12 steps."""
    losses = {}
    for path in find_records(FOLDER / "tuning"):
        record = read_record(path)
        ways = {"lora": "LoRA", "all": "full", "layer": record.model}
        if ways[record.init["train"]] == model:
            losses[record.config["ladder"]["lr"]] = record.val_loss
    rates = sorted(losses)
    best = min(losses, key=losses.get)
    assert best not in (rates[0], rates[-1])
    used = {"peer": 3e-2, "dense": 1e-2, "LoRA": 1e-2, "full": 1e-4}
    assert best == used[model]
    for path in find_records(FOLDER / "recipes"):
        record = read_record(path)
        ways = {"lora": "LoRA", "all": "full", "layer": record.model}
        if ways[record.init["train"]] == model:
            assert record.config["ladder"]["lr"] == used[model]
