"""W&B's own offline file is read back; its failures are survived."""

import warnings

import pytest

from experiments.config import Logger
from experiments.tracking import WandbRun, has_key, resolve_mode

OFFLINE = Logger(wandb="offline", project="p", entity=None, log_every_n_steps=10)


def start(folder, settings=OFFLINE):
    return WandbRun(
        settings, run_id="abc123", sweep="s", model="peer", folder=folder, config={"size": 2}
    )


@pytest.fixture
def nobody(monkeypatch, tmp_path):
    """A user without a key."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_the_offline_file_holds_config_rows_and_summary(tmp_path):
    from tests.wandb_file import read_wandb

    run = start(tmp_path)
    for step in range(3):
        run.log({"n_tokens": 100 * step, "loss": 7.0 - step})
    run.finish({"val_loss": 4.5})
    (path,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    found = read_wandb(path)
    assert found.run_id == "abc123"
    assert (found.group, found.job_type, found.project) == ("s", "peer", "p")
    assert found.config["size"] == 2
    assert [row["loss"] for row in found.history] == [7.0, 6.0, 5.0]
    assert [row["n_tokens"] for row in found.history] == [0, 100, 200]
    assert found.summary["val_loss"] == 4.5


def test_no_key_is_offline_and_asks_nothing(nobody):
    assert not has_key()
    assert resolve_mode("auto") == "offline"


def test_a_key_without_a_network_is_offline(nobody, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # discard: nothing listens
    assert has_key()
    assert resolve_mode("auto") == "offline"


def test_the_users_own_mode_is_kept(nobody, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert resolve_mode("auto") == "disabled"
    assert resolve_mode("offline") == "offline"


def test_a_failing_wandb_warns_once_and_is_left_alone(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.warns(UserWarning, match=r"W&B logging stopped: .*; training goes on"):
        run = start(blocked)  # a folder can't be made where a file is
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.log({"n_tokens": 1})
        run.finish({})
