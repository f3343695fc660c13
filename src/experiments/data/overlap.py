"""How much of the packages' held-out text is in their training text, by 13-grams of words.

    python -m experiments.data.overlap

GPT-3's rule (Brown 2020, arXiv:2005.14165, App. C): text is contaminated where 13 words in a row
are in the training text, compared in lower case and without punctuation. Here a word is a run of
letters or digits, so that `don't`, `don 't` and WikiText's `post @-@ war` are the same two words
everywhere. Texts of fewer than 13 words have no 13-gram. Twenty seconds and 0.5 GB.

    python -m experiments.data.overlap --data packages_debian
"""

import argparse
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from experiments.config.composed import composed
from experiments.config.reading import build
from experiments.data.corpus import TRAIN, VALIDATION
from experiments.data.packages import Packages
from experiments.data.packages.sources import HELD_OUT
from experiments.system.text_table import markdown

N = 13  # words
_SEED = 4  # words: what of every 13-gram is looked up first
_STRIDE = N - _SEED + 1  # 13 words in a row hold the seed of one of every so many places

_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Part of a split that is in the training text, counted over occurrences in the split.

    n_any and n_half count its documents with one such 13-gram, and with at least half of theirs.
    by_domain counts 13-grams by training domain; one that is in two counts for both.
    """

    split: str
    n_documents: int
    n_grams: int
    n_found: int
    n_any: int
    n_half: int
    by_domain: dict[str, int]


def grams(text: str) -> Iterator[str]:
    """13-grams of a text, as words separated by spaces."""
    words = _words(text)
    for start in range(len(words) - N + 1):
        yield " ".join(words[start : start + N])


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _seeds(texts: Iterable[str]) -> set[str]:
    """All runs of _SEED words of these texts."""
    rows = map(_words, texts)
    return {" ".join(row[i : i + _SEED]) for row in rows for i in range(len(row) - _SEED + 1)}


def _known(text: str, seeds: set[str], where: Mapping[str, int]) -> Iterator[str]:
    """13-grams of a text that are in `where`, whose seeds these are.

    Only around a seed that is known are they made: a third of the time.
    """
    words = _words(text)
    last = len(words) - N
    for at in range(0, len(words) - _SEED + 1, _STRIDE):
        if " ".join(words[at : at + _SEED]) in seeds:
            for start in range(max(0, at - _STRIDE + 1), min(at, last) + 1):
                gram = " ".join(words[start : start + N])
                if gram in where:
                    yield gram


def find_overlap(corpus: Packages, splits: Iterable[str], cache: Path) -> list[Overlap]:
    """Overlap of each split with the training split, which is streamed past their 13-grams."""
    held_out = {split: list(corpus.documents(split, cache)) for split in splits}
    where = {gram: 0 for texts in held_out.values() for text in texts for gram in grams(text)}
    seeds = _seeds(text for texts in held_out.values() for text in texts)
    for bit, domain in enumerate(tqdm(corpus.domains, "training text", unit="domain")):
        for text in corpus.documents(f"{TRAIN}/{domain}", cache):
            for gram in _known(text, seeds, where):
                where[gram] |= 1 << bit
    return [_count(split, texts, where, corpus.domains) for split, texts in held_out.items()]


def _count(split: str, texts: list[str], where: dict[str, int], domains: list[str]) -> Overlap:
    by_domain: Counter[str] = Counter()
    n_grams = n_found = n_any = n_half = 0
    for text in texts:
        masks = [where[gram] for gram in grams(text)]
        found = [mask for mask in masks if mask]
        by_domain.update(d for mask in found for bit, d in enumerate(domains) if mask >> bit & 1)
        n_grams += len(masks)
        n_found += len(found)
        n_any += bool(found)
        n_half += bool(found) and 2 * len(found) >= len(masks)
    return Overlap(
        split=split,
        n_documents=len(texts),
        n_grams=n_grams,
        n_found=n_found,
        n_any=n_any,
        n_half=n_half,
        by_domain=dict(by_domain.most_common()),
    )


def table(overlaps: Iterable[Overlap]) -> str:
    """A Markdown table, a line a split."""
    rows = [
        (
            "split",
            "documents",
            "13-grams",
            "in training",
            "documents with any",
            "with half",
            "where",
        )
    ]
    for o in overlaps:
        share = o.n_found / max(o.n_grams, 1)
        any_, half = o.n_any / max(o.n_documents, 1), o.n_half / max(o.n_documents, 1)
        where = ", ".join(f"{domain} {n}" for domain, n in o.by_domain.items())
        counts = (o.split, str(o.n_documents), str(o.n_grams))
        rows.append((*counts, f"{share:.3%}", f"{any_:.2%}", f"{half:.2%}", where))
    return "\n".join(markdown(rows))


def main() -> None:
    """Prints the table for the weights of conf/data/packages.yaml, or of another such corpus."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    cache = Path(os.environ.get("EXPERIMENTS_CACHE", ".cache"))
    parser.add_argument("--cache", type=Path, default=cache, help=f"default: {cache}")
    parser.add_argument("--all", action="store_true", help="also the domains of weight 0")
    parser.add_argument(
        "--data", default="packages", help="a corpus of packages in conf/data; default: packages"
    )
    args = parser.parse_args()
    corpus = build(composed([f"data={args.data}"])["data"]["corpus"], "data.corpus")
    if not isinstance(corpus, Packages):
        parser.error(f"--data {args.data} is no corpus of packages; give packages, or leave it out")
    # copies would only be read twice
    weights = {d: 1 for d, weight in corpus.weights.items() if weight or args.all}
    corpus = replace(corpus, weights=weights)
    validation = [f"{VALIDATION}/{domain}" for domain in corpus.domains]
    print(table(find_overlap(corpus, [*HELD_OUT, *validation], args.cache)))


if __name__ == "__main__":
    main()
