"""An experiment that is a sweep needs no -m, with Hydra 1.3 and 1.4."""

import pytest

from experiments.config.sweep_mode import with_mode
from tests.conftest import REPOSITORY

OWN = {
    "params": "hydra: {sweeper: {params: {size: '1,2'}}}",
    "mode": "hydra: {mode: MULTIRUN}",  # as Hydra 1.3 took it
    "single": "size: 3",
}


@pytest.fixture
def folder(tmp_path):
    for name, text in OWN.items():
        (tmp_path / "experiment").mkdir(exist_ok=True)
        (tmp_path / "experiment" / f"{name}.yaml").write_text(f"# @package _global_\n{text}\n")
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "many"),
    [
        ("experiment=demo", True),
        ("experiment=demo seed=0,1 model=peer", True),
        ("experiment=demo hydra/launcher=slurm hydra.sweeper.only.model=peer", True),
        ("experiment=demo hydra.mode=RUN", False),
        ("experiment=demo --cfg job", False),
        ("-m experiment=demo", False),
        ("experiment=lifelong_setting", False),
        ("experiment=demo no_such_key=1", False),
        ("experiment=no_such_one", False),
        ("size=1,2", False),
        ("--config-dir DIR experiment=params", True),
        ("--config-dir=DIR experiment=mode", True),
        ("-cd DIR experiment=single", False),
    ],
)
def test_m_is_added_where_an_experiment_is_a_sweep(folder, typed, many):
    words = typed.replace("DIR", str(folder)).split()
    assert with_mode(words) == ["-m"] * many + words


def test_no_experiment_sets_the_mode():
    """Hydra 1.4 refuses it there."""
    files = (REPOSITORY / "conf" / "experiment").glob("*.yaml")
    assert not [path.name for path in files if "MULTIRUN" in path.read_text()]
