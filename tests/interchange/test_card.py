"""The model card says what a record knows."""

from pathlib import Path

import pytest

from experiments.interchange.card import _PACKAGES, model_card
from experiments.interchange.forms import form_of
from tests.interchange.models import built, record_of

DATA = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


def card_of(name="peer", **values):
    model = built(name)
    record = record_of(model, name, **values)
    return model_card(record, form_of(model, name, 0), masked=False)


@pytest.mark.parametrize("domain", _PACKAGES)
def test_licences_are_those_of_the_documentation(domain):
    row = next(line for line in DATA.splitlines() if line.startswith(f"| {domain} |"))
    stated = row.split("|")[6].replace("[p]", "").replace("[g]", "")
    words = " ".join(stated.replace(" ,", ",").split())
    assert _PACKAGES[domain].split(",")[0] in words


def test_texts_are_named_with_their_licences():
    corpus = {
        "_target_": "experiments.data.packages.mix.Packages",
        "weights": {"wiki_leads": 1, "gcide": 0.5, "movie_dialog": 0},
    }
    card = card_of(config={"data": {"corpus": corpus}})
    assert "wiki_leads (CC BY-SA 4.0)" in card
    assert "movie_dialog" not in card
    corpus = {"_target_": "a.Domain", "domain": "recipes", "requirement": "some==1"}
    card = card_of(config={"data": {"corpus": corpus}})
    assert "recipes of the Python package some==1 (CC BY-SA 4.0)" in " ".join(card.split())
    card = card_of(config={"data": {"corpus": {"_target_": "a.WikiText2"}}})
    assert "CC BY-SA 3.0" in card


def test_scores_of_named_sets_and_weights_to_start_from():
    scores = {"wikitext2": {"loss": 3.25, "bits_per_byte": 1.5}, "task": {"accuracy": 0.5}}
    init = {"sha256": "ab" * 32, "how": "beside", "train": "layer"}
    card = card_of(evaluations=scores, config={"init": init})
    assert "| wikitext2: loss, nats/token | 3.2500 |" in card
    assert "by init.how=beside" in " ".join(card.split())


def test_consent_is_asked_for_where_there_is_code():
    assert "trust_remote_code=True" in card_of("peer")
    assert "trust_remote_code" not in card_of("dense")
    assert "1 x dense with peer beside it, 1 x dense" in " ".join(card_of("beside").split())
