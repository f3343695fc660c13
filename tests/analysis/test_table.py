import pytest

from analysis import load_table
from analysis.table import COLUMNS
from experiments.records import write_record
from tests.test_records import record


def test_holds_every_run_in_order(sweep):
    table = load_table(sweep)
    assert len(table) == 31
    assert tuple(table.columns) == COLUMNS
    assert list(table["status"]).count("failed") == 1
    done = table[table["status"] == "done"]
    assert done["budget"].is_monotonic_increasing
    assert table["n_experts"].isna().sum() == 10  # dense has none
    assert str(table["n_experts"].dtype) == "Int64"


def test_an_empty_folder_is_named_with_the_remedy(tmp_path):
    with pytest.raises(ValueError, match=r"no record\.json below .*; run a sweep first"):
        load_table(tmp_path)
    with pytest.raises(ValueError, match="no record"):
        load_table(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": 0.0}, "run bad: budget=.* must be above 0"),
        ({"n_params": -5}, "run bad: n_params=.* must be above 0"),
        ({"val_loss": None}, "run bad: val_loss=.* must be above 0 if done"),
        ({"val_loss": float("nan")}, "run bad: val_loss=.* must be above 0 if done"),
        ({"val_loss": -1.0}, "run bad: val_loss=.* must be above 0 if done"),
        ({"n_active_params": 10**9}, "run bad: n_active_params=.* must not exceed n_params"),
    ],
)
def test_what_cannot_be_is_named_by_run_and_column(sweep, changes, message):
    write_record(sweep / "bad", record(run_id="bad", **changes))
    with pytest.raises(ValueError, match=message):
        load_table(sweep)


def test_the_same_run_twice_is_refused(sweep):
    write_record(sweep / "copy", record(run_id="broken", status="failed"))
    with pytest.raises(ValueError, match="run broken: run_id='broken' is there twice"):
        load_table(sweep)
