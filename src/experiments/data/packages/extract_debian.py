"""Prose and a dictionary out of Debian packages: commentaries, an FAQ, WordNet.

Each function takes a package's files as a ZipFile and yields (key, text), always in the same order.
Nothing of a package is executed.
"""

import gzip
import re
import struct
import zlib
from collections.abc import Iterator
from itertools import groupby
from zipfile import ZipFile

from experiments.data.packages.lines import (
    Keyed,
    groups,
    in_pieces,
    plain,
    tidy,
    without_repeats,
)

HEADWORDS_PER_DOCUMENT = 20

_FAQ = "usr/share/doc/anarchism/html/"
_LINKS = {"alinks", "arlinks", "contact", "index", "links", "new", "pdf", "translations"}
_SENSE = re.compile(r"\n +(?:[a-z]+ )?\d+: ")


def commentary(package: ZipFile, module: str, blocks: str, entry: str) -> Iterator[Keyed]:
    """A Bible commentary of CrossWire's SWORD project, a document a verse, long ones in pieces.

    module: its folder; blocks: the letter of its files, b (a block a book) or c (a chapter);
    entry: struct's format of a verse's block, place and size. A testament has three files: zs,
    where each block is (place, size, size unpacked); zz, the blocks; zv, the verses. Verses that
    share a text have it once.
    """
    folder = f"usr/share/sword/modules/comments/zcom/{module}"
    yield from in_pieces(_verses(package, folder, blocks, entry))


def _verses(package: ZipFile, folder: str, blocks: str, entry: str) -> Iterator[Keyed]:
    for testament in ("ot", "nt"):
        where, packed, verses = (
            package.read(f"{folder}/{testament}.{blocks}{kind}") for kind in ("zs", "zz", "zv")
        )
        texts = [
            zlib.decompress(packed[start : start + size])
            for start, size, _ in struct.iter_unpack("<III", where)
        ]
        entries = (found for found in struct.iter_unpack(entry, verses) if found[2])
        for n, ((block, start, size), _) in enumerate(groupby(entries)):
            text = texts[block][start : start + size].decode()
            yield f"{testament}/{n:05d}", tidy(plain(text))


def anarchism(package: ZipFile) -> Iterator[Keyed]:
    """An Anarchist FAQ by sections, in pieces; without its lists of links."""
    names = [name for name in package.namelist() if name.startswith(_FAQ)]
    stems = {name.removeprefix(_FAQ).removesuffix(".html"): name for name in sorted(names)}
    kept = ((stem, name) for stem, name in stems.items() if stem not in _LINKS)
    bodies = ((stem, package.read(name).decode().partition("<body>")[2]) for stem, name in kept)
    yield from in_pieces(without_repeats((stem, tidy(plain(body))) for stem, body in bodies))


def wordnet(package: ZipFile) -> Iterator[Keyed]:
    """WordNet 3.0: headwords and their senses, a line a sense, HEADWORDS_PER_DOCUMENT a document.

    A sense stands at each of its synonyms; it is kept at the first. Headwords that have none left
    are left out.
    """
    text = gzip.decompress(package.read("usr/share/dictd/wn.dict.dz")).decode()
    seen: set[str] = set()
    rows = []
    for entry in re.split(r"\n(?=\S)", text):
        headword, *senses = _SENSE.split(entry)
        lines = [re.sub(r"\s+", " ", sense).strip() for sense in senses]
        new = [line for line in lines if line not in seen]
        seen.update(new)
        if new:
            rows.append("\n".join([headword.strip(), *new]))
    for n, some in enumerate(groups(rows, HEADWORDS_PER_DOCUMENT)):
        yield f"{n:05d}", tidy("\n\n".join(some).replace("{", "").replace("}", ""))
