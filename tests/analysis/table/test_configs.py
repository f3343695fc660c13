"""A sweep's folder: what varied in the configs of its runs is named, as a column of a table is."""

import pytest

from analysis.table.load import COLUMNS, load_table
from analysis.table.merged import find_merged
from experiments.records.files import write_record
from tests.records.test_record import record

BUDGET = 6 * 500 * 5120  # of a record() of 500 active parameters and 5120 tokens


@pytest.fixture
def folder(tmp_path):
    """Two sizes with two weight decays each, of one seed and learning rate."""
    for size in (1, 2):
        for decay in (0.0, 0.1):
            name = f"{size}{decay}"
            changes = {"n_params": 800 * size, "val_loss": 4 + decay / 10 + size}
            config = {"optim": {"weight_decay": decay, "betas": [0.9, 0.95]}, "dir": name}
            write_record(
                tmp_path / name, record(run_id=name, budget=BUDGET, config=config, **changes)
            )
    return tmp_path


def test_a_key_of_the_configs_is_named(folder):
    table = load_table(folder)
    assert tuple(table.columns) == (*COLUMNS, "optim.weight_decay")
    (warning,) = table.attrs["warnings"]
    assert warning.startswith("2 cells (e.g. peer budget=1.536e+07 n_params=800)")
    assert "they differ in optim.weight_decay, and the lowest loss counts" in warning
    assert find_merged(table).how == "lowest over optim.weight_decay"


def test_it_names_series_and_chooses_runs(folder):
    table = load_table(folder, series=["model", "optim.weight_decay"])
    assert set(table["series"]) == {
        "peer optim.weight_decay=0",
        "peer optim.weight_decay=0.1",
    }
    assert table.attrs["warnings"] == ()
    kept = load_table(folder, where={"optim.weight_decay": ["0.1"]})
    assert kept["loss"].tolist() == [5.01, 6.01]
    assert kept.attrs["warnings"] == ()
    with pytest.raises(ValueError, match=r"where: 'optim\.beta' is no column; found series, model"):
        load_table(folder, where={"optim.beta": ["1"]})
