"""How a sweep's runs were made, from their records: what they share, what varies, what is typed."""

import shlex

import pytest

from analysis.report.provenance import _SETTINGS, Provenance, find_provenance
from analysis.table.sources import read_source
from experiments.records.files import write_record
from tests.records.test_record import record

CONFIG = {
    "data": {
        "corpus": {"_target_": "experiments.data.wikitext.WikiText2"},
        "tokenizer": {"_target_": "experiments.data.tokenizer.TrainedBPE"},
        "seq_len": 256,
        "n_eval_tokens": 131072,
    },
    "ladder": {"name": "cpu", "vocab_size": 2048, "batch_size": 4, "tie_head": False},
    "optim": {"lr": 0.012, "beta1": 0.9, "beta2": 0.95, "weight_decay": 0.0, "schedule": "cosine"},
    "trainer": {"precision": "bf16-mixed"},
}
ENVIRONMENT = {
    "git_commit": "0123456789abcdef0123456789abcdef01234567",
    "git_dirty": False,
    "device": "NVIDIA H100",
    "packages": {"torch": "2.9.0"},
    "command": ["/x/src/experiments/run.py", "-m", "model=dense,peer", "sweep=a b"],
}


def optim(**changes):
    return {**CONFIG, "optim": {**CONFIG["optim"], **changes}}


def environment(**changes):
    return {**ENVIRONMENT, **changes}


def provenance_below(folder):
    records = read_source(folder).records
    return find_provenance(records, [r.run_id for r in records])


@pytest.fixture
def sweep(tmp_path):
    """sweep(config, ...) or sweep((config, environment), ...): what is known of such records."""

    def make(*runs, **columns):
        for i, run in enumerate(runs):
            config, where = run if isinstance(run, tuple) else (run, ENVIRONMENT)
            name = f"run{i:02d}"
            made = record(run_id=name, config=config, environment=where, **columns)
            write_record(tmp_path / "folder" / name, made)
        return provenance_below(tmp_path)

    return make


# Settings


def test_what_all_share_is_said_once(sweep):
    assert sweep(CONFIG, CONFIG).settings == {
        "corpus": "WikiText2",
        "tokenizer": "TrainedBPE",
        "vocabulary": "2048",
        "sequence length": "256",
        "sequences a batch": "4",
        "held-out tokens": "131072",
        "ladder": "cpu",
        "head tied to the embedding": "False",
        "peak learning rate": "0.012",
        "schedule": "cosine",
        "weight decay": "0.0",
        "Adam's betas": "0.9 and 0.95",
        "precision": "bf16-mixed",
    }


def test_what_varies_is_listed_in_order(sweep):
    settings = sweep(*(optim(lr=lr, beta2=b) for lr, b in ((2e-3, 0.95), (1e-3, 0.99)))).settings
    assert settings["peak learning rate"] == "varies: 0.002, 0.001"
    assert settings["Adam's betas"] == "varies: 0.9 and 0.95, 0.9 and 0.99"
    assert settings["schedule"] == "cosine"
    config = {**CONFIG, "ladder": {**CONFIG["ladder"], "name": "cpu-v1.5"}}
    assert sweep(config).settings["ladder"] == "varies: cpu-v1.5, cpu"  # no path of a class


@pytest.mark.parametrize(("n", "listed"), [(6, "1, 2, 3, 4, 5, 6"), (7, "1, 2, 3, 4, 5, 6, ...")])
def test_many_values_are_cut(sweep, n, listed):
    settings = sweep(*(optim(lr=lr) for lr in range(1, n + 1))).settings
    assert settings["peak learning rate"] == f"varies: {listed}"


def test_a_composed_config_has_every_setting(compose_raw, sweep):
    # Else one was renamed in conf/, and its line would be gone in silence
    settings = sweep(compose_raw("model=peer", "logger=csv")).settings
    assert list(settings) == list(_SETTINGS)
    assert settings["corpus"] == "WikiText2"
    assert settings["blocks with the layer"] == "middle"
    assert settings["peak learning rate"] == "0.012"


def test_a_run_that_broke_off_early_hides_nothing(sweep):
    found = sweep(CONFIG, ({}, {}), status="failed")
    assert found.settings["peak learning rate"] == "0.012"
    assert found.devices == ("NVIDIA H100",)
    assert len(found.commands) == len(found.commits) == 1


def test_betas_that_are_not_recorded_are_not_reported(sweep):
    assert sweep({}).settings == {}
    assert "Adam's betas" not in sweep({"optim": {"beta1": 0.9}}).settings


# Where and with what


def test_commands_and_devices_are_there_once_and_commands_can_be_typed_again(sweep):
    second = environment(command=["/elsewhere/experiments/run.py", "size=4"], device="AMD EPYC")
    script = environment(command=["/venv/bin/experiments-run", "size=5"])
    now = environment(command=["experiments run", "size=6"])
    found = sweep(CONFIG, (CONFIG, second), CONFIG, (CONFIG, script), (CONFIG, now))
    assert found.commands == (
        "python -m experiments.run -m model=dense,peer 'sweep=a b'",
        "python -m experiments.run size=4",
        "python -m experiments.run size=5",
        "python -m experiments.run size=6",
    )
    assert shlex.split(found.commands[0])[3:] == ENVIRONMENT["command"][1:]
    assert found.devices == ("NVIDIA H100", "AMD EPYC")


DIRTY, BARE = {"git_dirty": True}, {"git_commit": None, "git_dirty": None}


@pytest.mark.parametrize(
    ("changes", "commits", "uncommitted"),
    [
        (
            ({}, DIRTY, DIRTY),
            ("0123456789ab", "0123456789ab with changes"),
            "of 3 records: 2 of a working tree with uncommitted changes (git_dirty)",
        ),
        (({},), ("0123456789ab",), None),
        ((BARE,), (), "of 1 records: 1 of an unknown commit"),
    ],
)
def test_commits_say_whether_there_were_changes(sweep, changes, commits, uncommitted):
    found = sweep(*((CONFIG, environment(**change)) for change in changes))
    assert (found.commits, found.uncommitted) == (commits, uncommitted)


# Where nothing is known


def test_of_a_file_nothing_is_known(tmp_path, sweep):
    sweep(CONFIG)
    (tmp_path / "runs.csv").write_text("loss,n_params\n3,1e6\n")
    assert provenance_below(tmp_path / "runs.csv") == Provenance()


def test_without_records_nothing_is_known():
    assert find_provenance([], ["a"]) == Provenance()
    assert Provenance() == Provenance(settings={}, commands=(), commits=(), devices=())


def test_a_damaged_record_says_nothing_of_the_others(tmp_path, sweep):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "record.json").write_text("{")
    assert sweep(CONFIG).settings["corpus"] == "WikiText2"


def test_only_the_runs_that_are_shown_count(tmp_path):
    for name, lr in (("a", 0.01), ("b", 0.02)):
        write_record(tmp_path / name, record(run_id=name, config=optim(lr=lr)))
    records = read_source(tmp_path).records
    shown = find_provenance(records, {"a", "b"})
    assert shown.settings["peak learning rate"] == "varies: 0.01, 0.02"
    assert find_provenance(records, {"b"}).settings["peak learning rate"] == "0.02"
    assert find_provenance(records, set()) == Provenance()
