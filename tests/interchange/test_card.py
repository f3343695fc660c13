"""The model card says what a record knows."""

from pathlib import Path

import pytest
import yaml

from experiments.interchange.card import model_card
from experiments.interchange.forms import find_form
from experiments.interchange.texts import HUB_NAMES, PACKAGES
from tests.interchange.models import built, record_of

DATA = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


def card_of(name="peer", **values):
    model = built(name)
    record = record_of(model, name, **values)
    return model_card(record, find_form(model, name, 0), masked=False)


def of_corpus(corpus, **more):
    return card_of(config={"data": {"corpus": corpus}, **more})


def said(card):
    """Its text without its lines' ends."""
    return " ".join(card.split())


@pytest.mark.parametrize("domain", PACKAGES)
def test_licences_are_those_of_the_documentation(domain):
    row = next(line for line in DATA.splitlines() if line.startswith(f"| {domain} |"))
    stated = row.split("|")[6].replace("[p]", "").replace("[g]", "")
    words = " ".join(stated.replace(" ,", ",").split())
    assert PACKAGES[domain].split(",")[0] in words


def test_texts_are_named_with_their_licences():
    corpus = {
        "_target_": "experiments.data.packages.mix.Packages",
        "weights": {"wiki_leads": 1, "gcide": 0.5, "movie_dialog": 0},
    }
    card = of_corpus(corpus)
    assert "wiki_leads (CC BY-SA 4.0)" in card
    assert "movie_dialog" not in card
    corpus = {"_target_": "a.Domain", "domain": "recipes", "requirement": "some==1"}
    card = of_corpus(corpus)
    assert "recipes of the Python package some==1 (CC BY-SA 4.0)" in said(card)
    card = of_corpus({"_target_": "a.WikiText2"})
    assert "CC BY-SA 3.0" in card


def test_scores_of_named_sets_and_weights_to_start_from():
    scores = {"wikitext2": {"loss": 3.25, "bits_per_byte": 1.5}, "task": {"accuracy": 0.5}}
    init = {"sha256": "ab" * 32, "how": "beside", "train": "layer"}
    card = card_of(evaluations=scores, config={"init": init})
    assert "| wikitext2: loss, nats/token | 3.2500 |" in card
    assert "by init.how=beside" in said(card)


def test_consent_is_asked_for_where_there_is_code():
    assert "trust_remote_code=True" in card_of("peer")
    assert "trust_remote_code" not in card_of("dense")
    assert "1 x dense with peer beside it, 1 x dense" in said(card_of("beside"))


def test_who_has_other_experts_in_bfloat16_is_told_so():
    names = ("beside", "moe", "moe_fine", "peer", "sgatlin", "dense", "dense_mixed", "none", "stem")
    told = [name for name in names if "In bfloat16 a token gets another" in said(card_of(name))]
    assert told == [*names[:5]]


def front_of(card):
    """What the hub reads, between the two lines of dashes."""
    return yaml.safe_load(card.split("---\n")[1])


PACKAGE = {"_target_": "a.Domain", "requirement": "some==1"}


@pytest.mark.parametrize(
    ("corpus", "licence", "language", "datasets"),
    [
        ({"_target_": "a.WikiText2"}, "cc-by-sa-3.0", ["en"], ["Salesforce/wikitext"]),
        (PACKAGE | {"domain": "recipes"}, "cc-by-sa-4.0", ["en"], None),
        (PACKAGE | {"domain": "mueller"}, "other", ["en"], None),
        (PACKAGE | {"domain": "another"}, "unknown", ["en"], None),
        (
            {"_target_": "a.Packages", "weights": {"api_aws": 1, "api_google": 2, "gcide": 0}},
            "apache-2.0",
            ["en"],
            None,
        ),
        (
            {"_target_": "a.HubText", "path": "allenai/c4", "name": "en"},
            "odc-by",
            ["en"],
            ["allenai/c4"],
        ),
        ({"_target_": "a.HubText", "path": "my/c4/folder"}, "unknown", None, None),
        ({"_target_": "a.LocalText", "path": "my/texts"}, "unknown", None, None),
        ({"_target_": "a.Facts"}, "other", ["en"], None),
    ],
)
def test_the_hub_reads_licence_language_and_datasets(corpus, licence, language, datasets):
    card = of_corpus(corpus)
    front = front_of(card)
    assert [front["license"], *map(front.get, ("language", "datasets"))] == [
        licence, language, datasets
    ]  # fmt: skip
    assert ("license_name" in front) == (licence == "other")
    assert "with their licences:" in said(card)


def test_a_stream_names_all_its_texts_and_the_weights_count_too():
    wikitext = {"_target_": "a.WikiText2"}
    domains = {name: PACKAGE | {"domain": name} for name in ("recipes", "hpo")}
    stream = {"_target_": "a.DomainStream", "base": wikitext, "domains": domains}
    card = of_corpus(stream | {"order": ["recipes"]})
    assert front_of(card)["license"] == "other"
    assert "WikiText-2-raw" in card
    assert "recipes of the Python package" in said(card)
    assert "hpo" not in card
    aws = domains["recipes"] | {"domain": "api_aws"}
    smollm2 = {"weights": {"_target_": "experiments.init.smollm2.SmolLM2"}}
    front = front_of(of_corpus(aws, init=smollm2))
    assert front["license"] == "apache-2.0"
    assert front["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    other = {"weights": {"_target_": "a.HuggingFaceFolder"}}
    assert front_of(of_corpus(aws, init=other))["license"] == "unknown"


def test_licences_have_the_hub_s_names_or_none():
    assert set(HUB_NAMES) - {"ODC-BY", "unknown"} <= set(PACKAGES.values())


def test_frozen_batch_norm_is_said_where_there_is_one():
    assert "freeze_batch_norm=False" in card_of("peer")
    assert "freeze_batch_norm" not in card_of("peer_glu")
