"""Questions on facts, as tasks of a run: on its own corpus's facts, or else on those of conf."""

from dataclasses import replace

import pytest

from experiments.data.facts import Facts
from experiments.data.stream import DomainStream
from experiments.evaluate import evaluate_run
from experiments.tasks import facts
from experiments.tasks.choice import choose
from experiments.tasks.facts import NAMES, facts_tasks
from tests.conftest import Nursery, run_cache
from tests.data.facts_wheel import small_wheel

CORPUS = Facts(n_facts=60, kinds=("technique", "software"))


@pytest.fixture(autouse=True)
def _small(tmp_path, monkeypatch):
    small_wheel(tmp_path, monkeypatch)


def stream(**domains):
    return DomainStream(base=Nursery(), domains=domains, order=tuple(domains))


def test_names_are_known_beside_files_and_harness_tasks():
    chosen = choose({"tasks": "[cloze,facts_held_out]"})
    assert ([task.name for task in chosen.local], chosen.facts) == (["cloze"], ("facts_held_out",))
    assert chosen.harness == ()
    assert choose({"tasks": "facts_held_in"})
    with pytest.raises(ValueError, match="names facts_held_in twice"):
        choose({"tasks": "[facts_held_in,facts_held_in]"})


def test_tasks_are_of_the_facts_that_the_stream_has(tmp_path):
    held_in, held_out = facts_tasks(NAMES, stream(words=Nursery(), mine=CORPUS), tmp_path)
    assert (held_in.name, held_out.name) == NAMES
    assert len(held_in.items) == len(held_out.items) == 30
    asked = {item.context for item in held_in.items}
    assert not asked & {item.context for item in held_out.items}
    assert facts_tasks(NAMES[1:], CORPUS, tmp_path) == [held_out]
    other = replace(CORPUS, seed=1)
    (both,) = facts_tasks(NAMES[:1], stream(mine=CORPUS, more=other), tmp_path)
    assert len(both.items) == 60
    assert both.digest != held_in.digest
    assert facts_tasks([], stream(mine=CORPUS), tmp_path / "never made") == []


def test_a_corpus_without_facts_is_asked_for_those_of_conf(tmp_path, monkeypatch):
    monkeypatch.setattr(facts, "Facts", lambda: CORPUS)
    monkeypatch.setattr(facts, "_read_facts", lambda corpus: [])
    (held_in,) = facts_tasks(NAMES[:1], stream(words=Nursery()), tmp_path)
    assert len(held_in.items) == 30


def test_a_run_is_scored_by_name(run_dir, monkeypatch):
    monkeypatch.setattr(facts, "_read_facts", lambda corpus: [CORPUS])
    words = ["tasks=[facts_held_in,facts_held_out]", run_cache(run_dir)]
    record = evaluate_run(run_dir, words)
    for name in NAMES:
        score = record.evaluations[f"tasks/{name}"]
        assert score["n_choice_items"] == 30
        # chance is 1/4; four standard deviations of 30 questions
        assert abs(score["acc"] - 0.25) < 4 * 0.08
    assert evaluate_run(run_dir, words) == record
