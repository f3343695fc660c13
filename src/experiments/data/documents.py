"""Documents of a packed split: where each one ends, and of which domain it is."""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from experiments.data.checked import read_checked, write_checked
from experiments.data.corpus import Corpus, DomainCorpus
from experiments.data.packed import PackedText
from experiments.records.files import DamagedError
from experiments.system.made_once import made_once

_FILE = "domains.json"


@dataclass(frozen=True, kw_only=True, eq=False)
class Documents:
    """ends: the place after each document's last token, which is its end of text, (n_documents,)
    int64. domains: names; domain: each document's number in them, (n_documents,) int64; both are
    empty of a corpus that has no domains.
    """

    ends: np.ndarray
    domains: tuple[str, ...]
    domain: np.ndarray


def find_documents(
    tokens: PackedText, end_of_text: int, corpus: Corpus, split: str, cache: Path
) -> Documents:
    """Documents of a corpus's split that was packed. The domains are read from its text once,
    and kept in the cache.

    Raises DamagedError if what the cache has is not of these tokens.
    """
    ends = np.flatnonzero(tokens[0 : len(tokens)] == end_of_text) + 1
    # a text that spells the end of text has more ends than its corpus has documents
    if not isinstance(corpus, DomainCorpus) or len(ends) != tokens.n_documents:
        return Documents(ends=ends, domains=(), domain=np.empty(0, dtype=np.int64))

    def make(folder: Path) -> None:
        found = list(islice(corpus.document_domains(split, cache), tokens.n_documents))
        names = sorted(set(found))
        numbers = {name: number for number, name in enumerate(names)}
        values = {"domains": names, "domain": [numbers[name] for name in found]}
        write_checked(folder / _FILE, values)

    folder = made_once(cache / "domains" / tokens.folder.name, make)
    remedy = f"delete {folder}, and the same command makes it again"
    found = read_checked(folder / _FILE, {"domains": list, "domain": list}, remedy)
    domain = np.array(found["domain"], dtype=np.int64)
    if len(domain) != len(ends):
        why = f"it has {len(domain)} documents, and {tokens.folder} has {len(ends)}"
        raise DamagedError(folder / _FILE, why, remedy)
    return Documents(ends=ends, domains=tuple(found["domains"]), domain=domain)
