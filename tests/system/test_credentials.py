"""Credentials: what is found, what is not taken for one, and that nothing of them is stored."""

import json
import sys

import pytest

from experiments.points.planning import make_point
from experiments.system.credentials import cut, refuse_credentials
from experiments.system.environment import describe
from experiments.training.execute import execute
from experiments.training.module import LanguageModel
from tests.conftest import REPOSITORY, TINY, python

# made up, and put together here so that no scanner takes them for real
KEYS = (
    "hf" + "_abcdefghijklmnopqrstuvwx",
    "gh" + "p_0123456789abcdefghijABCD",
    "AK" + "IA0123456789ABCDEF",
    "sk" + "-proj-abcdefghijklmnopqrstuv",
)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        *((f"export A={key}", "export A=[cut]") for key in KEYS),
        ("data.path=https://me:hunter2@host/a", "data.path=https://[cut]@host/a"),
        ("WANDB_API_KEY=0123456789abcdef", "WANDB_[cut]"),
        ("{'password': 'correct horse'}", "{'[cut] horse'}"),
        ("--token=abcd1234efgh", "--[cut]"),
    ],
)
def test_what_is_found(text, left):
    assert cut(text) == left


@pytest.mark.parametrize(
    "text",
    [
        "token = tokens[0]",
        "n_tokens=12345678 max_tokens: 131072000 batch_tokens=4096",
        "tokenizer_sha256: 0123456789abcdef0123456789abcdef",
        "data.corpus.revision=0123456789abcdef0123456789abcdef01234567",
        "s3://bucket:9000/path https://host/a@b",
        "optim.key_lr=0.2 data.tokenizer.vocab_size=50257",
        "sk-learn-models-for-everyone",
        "api_key = os.environ['WANDB_API_KEY']",
    ],
)
def test_what_is_not_one(text):
    assert cut(text) == text


def test_values_of_environment_variables_are_found_by_their_names(monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "a plain word")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "a plain value")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/home/me/key.json")
    text = "a plain word, a plain value, /home/me/key.json"
    assert cut(text) == "[cut], a plain value, /home/me/key.json"


def test_a_config_with_one_is_refused_and_says_where_without_showing_it(compose_raw):
    with pytest.raises(
        ValueError, match=r"the config holds .* key \(paths.results\); it would be"
    ) as e:
        make_point(compose_raw("paths.results=s3://me:hunter2@host/a"))
    assert "hunter2" not in str(e.value)
    refuse_credentials("the config", compose_raw())


def test_a_command_line_with_one_is_refused(tmp_path):
    argument = f"hydra.launcher.setup=[export HF_TOKEN={KEYS[0]}]"
    done = python("-m", "experiments.run", "dry_run=true", argument, cwd=tmp_path)
    assert done.returncode == 2
    assert "error: the command line holds what looks like a password or key (hydra.l" in done.stderr
    assert KEYS[0] not in done.stderr + done.stdout
    assert not list(tmp_path.iterdir())


def test_a_record_holds_none(compose_raw, tmp_path, monkeypatch):
    def broken(self, *_):
        raise OSError(f"401 for https://me:hunter2@host with {KEYS[0]}")

    monkeypatch.setattr(LanguageModel, "training_step", broken)
    monkeypatch.setattr(sys, "argv", ["run.py", f"+a={KEYS[1]}"])
    paths = (f"paths.results={tmp_path / 'r'}", f"paths.cache={tmp_path / 'c'}")
    point = make_point(compose_raw("size=2", "budget=2e9", *TINY, *paths))
    record = execute(point)
    assert record.error.strip().endswith("OSError: 401 for https://[cut]@host with [cut]")
    stored = "".join(
        path.read_text() for path in point.run_dir.glob("*.*") if path.suffix != ".ckpt"
    )
    assert "hunter2" not in stored
    assert not any(key in stored for key in KEYS)
    assert json.dumps(describe("cpu", REPOSITORY / "src")).count("[cut]") == 1


def test_files_that_hold_code_or_output_are_for_their_owner_alone(compose_raw, tmp_path):
    paths = (f"paths.results={tmp_path / 'r'}", f"paths.cache={tmp_path / 'c'}")
    point = make_point(compose_raw("size=2", "budget=2e9", *TINY, *paths))
    execute(point)
    modes = {path.name: path.stat().st_mode & 0o777 for path in point.run_dir.iterdir()}
    assert modes["environment.json"] == 0o600
    assert modes["record.json"] == modes["config.yaml"] == modes["history.csv"]
