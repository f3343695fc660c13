"""Page of an inspection: its numbers are the tables', it is escaped, and it is small."""

import base64
import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from experiments.inspection.maps import mass_map
from experiments.inspection.page.data import Size, layer_data
from experiments.inspection.page.page import render_page
from experiments.inspection.results import read_inspection, write_results
from experiments.system.page.shell import json_inside
from tests.inspection.made import EVIL, TEXTS, WORDS, made_inspection, with_additions, with_before


@pytest.fixture(scope="module")
def made():
    return made_inspection()


def data_of(page):
    (text,) = re.findall(r'<script type="application/json" id="_data">(.*?)</script>', page)
    return json.loads(text)


def test_tables_are_read_back_as_they_were_and_make_the_same_page(made, tmp_path):
    found, _ = made
    page = render_page(found, name="pkm")
    write_results(tmp_path, found, page)
    again = read_inspection(tmp_path)
    assert again.cards == found.cards
    for name, table in found.tables.items():
        pd.testing.assert_frame_equal(again.tables[name], table, check_dtype=False)
    assert render_page(again, name="pkm") == page == (tmp_path / "inspect.html").read_text()


def test_texts_stay_texts(made):
    page = render_page(made[0], name=EVIL)
    assert EVIL not in page
    assert "<img" not in page
    assert page.count("<script") == page.count("</script") == 2
    assert "<!--<script>" not in page
    (layer, _) = data_of(page)["layers"]
    tokens = {token for expert in layer["experts"] for token, _ in expert["tokens"]}
    assert {EVIL, "\u2028", "=1+1", "\n"} <= tokens
    assert data_of(page)["texts"] == list(TEXTS)
    assert json.loads(json_inside("a\ud800<b>&")) == "a?<b>&"
    policy = re.findall(r'Content-Security-Policy" content="(.*?)"', page)
    assert policy[0].startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'; ")
    assert not re.search(r'(?:src|href)="(?!#|data:)', page)


def test_its_numbers_are_those_of_the_statistics(made):
    found, statistics = made
    own = statistics["blocks.0.ffn"]
    (layer, dense) = data_of(render_page(found, name="pkm"))["layers"]
    mass = own.mass.sum(0)
    used = np.argsort(-mass, kind="stable")[:12].tolist()
    assert layer["groups"]["used"] == used
    assert set(layer["groups"]["specific"]) == {*range(32, 40)}  # read in one text alone
    assert len(layer["groups"]["random"]) == 12
    by_number = {expert["expert"]: expert for expert in layer["experts"]}
    for number in used:
        expert = by_number[number]
        assert expert["n_tokens"] == own.n_tokens[number]
        assert expert["share"] == pytest.approx(mass[number] / mass.sum(), rel=1e-5)
        gates = own.context_gates[number]
        assert [gate for gate, *_ in expert["contexts"]] == pytest.approx(gates.tolist(), rel=1e-5)
        assert len(expert["lifts"]) == 2
    tests = found.about["blocks.0.ffn"]["lifts"]
    q = found.tables["lifts"].query("layer == 'blocks.0.ffn'")["q"]
    assert tests["n_significant"] == (q <= 0.05).sum() >= 16
    assert layer["map"]["sub_keys"]
    assert not dense["map"]["sub_keys"]
    assert [text["name"] for text in layer["map"]["texts"]] == ["all texts", *TEXTS]
    for text, share in zip(layer["map"]["texts"], (mass, *own.mass), strict=True):
        share = share / share.sum()
        levels = np.frombuffer(base64.b64decode(text["levels"]), np.uint8)
        assert (levels > 0).tolist() == (share > 0).tolist()
        shown = text["least"] * (text["most"] / text["least"]) ** ((levels - 1.0) / 254)
        np.testing.assert_allclose(shown[levels > 0], share[levels > 0], rtol=0.02)


def test_with_one_text_there_is_no_lift_to_tell():
    found, _ = made_inspection(names=("one",))
    (layer, _) = data_of(render_page(found, name="pkm"))["layers"]
    assert "specific" not in layer["groups"]
    assert layer["tests"]["n_tested"] == 0
    assert [text["name"] for text in layer["map"]["texts"]] == ["one"]


@pytest.mark.parametrize("grid", [(600, 300), (64, 64), None])
def test_a_map_is_the_sum_of_its_cells(grid):
    n = 600 * 300 if grid is None else grid[0] * grid[1]
    mass = np.random.default_rng(0).random((2, n))
    found = mass_map(mass, grid)
    assert found.mass.shape[1] <= 256
    assert found.mass.shape[2] <= (256 if grid else 1024)
    columns = n if grid is None else grid[1]
    expected = np.zeros_like(found.mass)
    for expert in range(0, n, 997):
        row, column = expert // columns // found.tall, expert % columns // found.wide
        expected[:, row, column] += mass[:, expert]
    some = np.zeros_like(mass)
    some[:, ::997] = mass[:, ::997]
    np.testing.assert_allclose(mass_map(some, grid).mass, expected)
    assert found.mass.sum() == pytest.approx(mass.sum())


def test_a_page_that_would_be_too_large_says_what_it_leaves_out(made):
    found, _ = made
    whole = render_page(found, name="pkm")
    assert "Left out" not in whole
    small = render_page(found, name="pkm", limit=len(whole) - 20_000)
    assert len(small.encode()) <= len(whole) - 20_000
    assert "Left out" in small
    assert re.search(r"each group has \d+ experts", small)
    n = len(data_of(small)["layers"][0]["experts"])
    assert n < len(data_of(whole)["layers"][0]["experts"])
    with pytest.raises(ValueError, match="a page of one layer is larger than 5,000 bytes"):
        render_page(found, name="pkm", limit=5000)


def test_layers_that_find_no_room_have_their_line_alone(made, monkeypatch):
    found, _ = made
    monkeypatch.setattr("experiments.inspection.page.page._SIZES", (Size(side=32, experts=3),))
    one = render_page(replace(found, cards=found.cards[:1]), name="pkm")
    many = replace(found, cards=found.cards[:1] * 3)
    few = render_page(many, name="pkm", limit=len(one.encode()) + 3000)
    assert "2 layers, but for their line above" in few
    assert few.count('<th scope="row">blocks.0.ffn') == 3
    assert len(data_of(few)["layers"]) == 1


def test_a_coarser_map_has_the_same_mass(made):
    found, statistics = made
    (text, *_) = layer_data(found, found.cards[0], Size(side=3))["map"]["texts"]
    levels = np.frombuffer(base64.b64decode(text["levels"]), np.uint8)
    assert len(levels) == 9
    cells = np.zeros((3, 3))
    mass = statistics["blocks.0.ffn"].mass.sum(0)
    for expert in range(64):
        cells[expert // 8 // 3, expert % 8 // 3] += mass[expert] / mass.sum()
    assert text["most"] == pytest.approx(cells.max())
    assert levels.argmax() == cells.argmax()


def test_parts_on_the_page_add_up_and_the_search_has_the_kept_tokens(made):
    found, statistics = made
    for layer in data_of(render_page(found, name="pkm"))["layers"]:
        for text in layer["texts"]:
            assert len(text["rows"]) > 2
            for _, _, _, part, beside, others, parts in text["rows"]:
                total = beside + others + sum(value for *_, value in parts)
                assert total == pytest.approx(part, abs=1e-5)
        own = statistics[layer["name"]]
        pairs = {
            (expert, layer["search"]["strings"][i], times)
            for expert, _, kept in layer["search"]["experts"]
            for i, times in kept
        }
        expected = {(e, WORDS[i], n) for e, i, n in own.pairs.most_common(10)}
        assert pairs == expected
        bigrams = {
            (expert, layer["search"]["bigrams"]["strings"][i], times)
            for expert, _, kept in layer["search"]["bigrams"]["experts"]
            for i, times in kept
        }
        n = len(WORDS)
        expected = {
            (e, f"{WORDS[two // n]} {WORDS[two % n]}", times)
            for e, two, times in own.bigrams.most_common(10)
        }
        assert bigrams == expected
        assert layer["peak"][1] <= layer["peak"][0] <= layer["peak"][2]


def test_typed_texts_come_first_and_parts_that_find_no_room_are_summed(made):
    found = with_additions(made[0])
    whole, small = (layer_data(found, found.cards[0], size) for size in (Size(), Size(parts=1)))
    assert [text["typed"] for text in whole["texts"]] == ["\n" + EVIL, "", ""]
    assert whole["texts"][0]["rows"] == whole["texts"][1]["rows"]
    for text in small["texts"]:
        for _, _, _, part, beside, others, parts in text["rows"]:
            assert len(parts) == 1
            assert beside + others + parts[0][2] == pytest.approx(part, abs=1e-5)
    (string,) = whole["strings"]
    assert string["string"] == EVIL * 2
    assert string["tokens"][1] == [EVIL, [[4, 0.5, 0.25, 0.75, 0.25, 0.125]]]
    none = layer_data(found, found.cards[0], Size(typed=1))
    assert [text["typed"] for text in none["texts"]] == ["", ""]


def test_additions_are_read_back_and_take_their_own_places(made, tmp_path, monkeypatch):
    found = with_additions(made[0])
    page = render_page(found, name="pkm")
    assert EVIL not in page
    write_results(tmp_path, found, page)
    again = read_inspection(tmp_path)
    assert render_page(again, name="pkm") == page
    twice = with_additions(again)
    assert render_page(twice, name="pkm") == page
    monkeypatch.setattr("experiments.inspection.page.page._SIZES", (Size(), Size(typed=1)))
    small = render_page(found, name="pkm", limit=len(page.encode()) - 1)
    assert "1 of the texts that were typed" in small


def test_a_map_before_and_the_change_of_shares(made):
    found, statistics = made
    shown = with_before(found)
    assert "before" not in layer_data(shown, shown.cards[1], Size())["map"]["texts"][0]
    layer = layer_data(shown, shown.cards[0], Size())["map"]
    assert layer["before"]["n_experts"] == 48
    mass = statistics["blocks.0.ffn"].mass.sum(0)
    now, then = mass / mass.sum(), np.where(np.arange(64) < 48, mass, 0)
    then = then / then.sum()
    levels = np.frombuffer(base64.b64decode(layer["texts"][0]["change"]), np.uint8)
    assert (levels[now + then == 0] == 0).all()
    assert (levels[(now > 0) & (then == 0)] == 255).all()
    both = (now > 0) & (then > 0)
    np.testing.assert_allclose(
        2.0 ** ((levels[both] - 128.0) * 4 / 127), now[both] / then[both], rtol=0.02
    )
    levels = np.frombuffer(base64.b64decode(layer["texts"][0]["before"]["levels"]), np.uint8)
    assert (levels > 0).tolist() == (then > 0).tolist()


def test_an_expert_has_its_lift_in_each_class_of_tokens(made):
    found, _ = made
    layer = layer_data(found, found.cards[0], Size())
    assert layer["class_tests"]["n_tested"] > 0
    kinds = {kind for expert in layer["experts"] for kind, *_ in expert["classes"]}
    assert kinds == {"punctuation", "word start", "white space", "non-ASCII", "capital", "number",
                     "inside a word"}  # fmt: skip
