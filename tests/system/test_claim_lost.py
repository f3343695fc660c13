"""A run whose folder is moved while it runs ends, and writes nothing at the old place."""

import pytest

from experiments.execute import execute
from experiments.point import make_point
from experiments.system.claims import RunLostError
from tests.conftest import TINY


@pytest.mark.parametrize("change", ["moved", "deleted"])
def test_a_run_that_lost_its_folder_ends_and_writes_nothing(compose_raw, tmp_path, change):
    point = make_point(
        compose_raw(
            "size=1",
            "budget=1e9",
            *TINY,
            f"paths.results={tmp_path / 'results'}",
            f"paths.cache={tmp_path / 'cache'}",
        )
    )
    seen = []

    def lose(row):
        seen.append(row["step"])
        if row["step"] == 20:
            if change == "moved":
                point.run_dir.rename(tmp_path / "elsewhere")
            else:
                (point.run_dir / ".claim").unlink()

    with pytest.raises(RunLostError):
        execute(point, lose)
    assert seen == [10, 20]
    assert point.run_dir.exists() == (change == "deleted")
    assert not (point.run_dir / "record.json").exists()
