"""Names of lm-evaluation-harness' tasks, found in the texts of its yamls."""

import importlib.util
import time
from types import SimpleNamespace

import pytest

from experiments.tasks import harness_names
from experiments.tasks.harness_names import check_names


@pytest.fixture
def package(tmp_path, monkeypatch):
    (tmp_path / "tasks" / "arc").mkdir(parents=True)
    (tmp_path / "tasks" / "arc" / "easy.yaml").write_text(
        "tag:\n  - ai2\ntask: arc_easy\ndataset_name: ARC-Easy\n"
    )
    (tmp_path / "tasks" / "group.yaml").write_text('group: "mine"\ntask:\n  - arc_easy\n  - a.b\n')
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(harness_names.importlib.util, "find_spec", lambda name: spec)


@pytest.mark.parametrize("name", ["arc_easy", "ai2", "mine", "a.b"])
def test_a_name_that_a_yaml_mentions_may_be_a_task(package, name):
    check_names([name])


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("arc_eazy", "; near it are arc_easy"),
        ("arc_eas", "; near it are arc_easy"),  # not a word of its own
        ("own_tas", "; near it are own_task"),
        ("xyz\udce9", "lm-evaluation-harness"),
    ],
)
def test_another_name_is_refused_with_names_near_it(package, tmp_path, name, near):
    own = tmp_path / "own"
    own.mkdir()
    (own / "own_task.yaml").write_text('{"task": "own_task"}')
    check_names(["own_task"], own)
    with pytest.raises(ValueError, match="neither a file, nor one of cloze, ") as raised:
        check_names(["arc_easy", name], own)
    assert str(raised.value).endswith(near)


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm_eval is not installed")
def test_the_real_package_is_read_in_seconds():
    check_names(["arc_easy", "hellaswag", "mmlu"])
    start = time.process_time()
    with pytest.raises(ValueError, match=r"near it are .*hellaswag"):
        check_names(["hellaswagg"])
    assert time.process_time() - start < 5
