"""Domains one after another: the text of a run that goes on learning."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.config.constraints import shown
from experiments.config.reading import build
from experiments.data.corpus import Corpus
from experiments.data.folders import identity

JOINT, BASE = "joint", "base"  # the names of a stage, and of a set that is scored
_BASE = "what was learnt before (that of the run of init=run)"


@dataclass(frozen=True, kw_only=True)
class DomainStream:
    """A base corpus and domains, in the order in which they are learnt.

    base: what the model has learnt before. Its validation split is the run's own, and what is
    replayed is of its training split. domains: corpora by name; all of them are scored at the end
    of each stage. order: the names of the stages. shares: of the budget, one for each stage; null:
    equal ones. joint: all stages' text mixed by these shares, in one stage; the bound for all
    orders.

    Raises ValueError for names in `order` that are no domains or occur twice, and for shares that
    are not one positive number a stage.
    """

    base: Any
    domains: Mapping[str, Any]
    order: tuple[str, ...]
    shares: tuple[float, ...] | None = None
    joint: bool = False

    def __post_init__(self) -> None:
        domains = {
            name: _corpus(node, f"domains.{name}", "a domain")
            for name, node in self.domains.items()
        }
        object.__setattr__(self, "base", _corpus(self.base, "base", _BASE))
        object.__setattr__(self, "domains", domains)
        if BASE in domains or JOINT in domains:
            raise ValueError(f"domains: {BASE} and {JOINT} are names of other sets; choose others")
        unknown = [name for name in self.order if name not in self.domains]
        if unknown:
            known = ", ".join(self.domains)
            raise ValueError(f"order: {unknown[0]!r} is not one of the domains {known}")
        if not self.order or len(set(self.order)) < len(self.order):
            raise ValueError(f"order={shown(list(self.order))} must name a domain, each one once")
        shares = self.shares
        if shares is not None and (len(shares) != len(self.order) or min(shares) <= 0):
            raise ValueError(
                f"shares={shown(list(shares))} must be {len(self.order)} numbers above 0, one for "
                "each stage of data.corpus.order"
            )

    @property
    def stages(self) -> Mapping[str, float]:
        """Shares of the budget, by the stages' names, in order; they add up to 1."""
        if self.joint:
            return {JOINT: 1.0}
        return self.domain_shares

    @property
    def domain_shares(self) -> Mapping[str, float]:
        """Shares of the text, by domain, in order."""
        shares = self.shares or (1.0,) * len(self.order)
        return {name: share / sum(shares) for name, share in zip(self.order, shares, strict=True)}

    def documents(self, split: str, cache: Path) -> Iterator[str]:
        """Documents of the base corpus."""
        return iter(self.base.documents(split, cache))

    def identity(self) -> dict[str, Any]:
        """Base, and the domains that are learnt; those that are scored alone are no part."""
        return {
            "base": identity(self.base),
            "order": [[name, identity(self.domains[name])] for name in self.order],
            "shares": list(self.domain_shares.values()),
            "joint": self.joint,
        }


def _corpus(node: Any, where: str, what: str) -> Corpus:
    """where: below the stream, whose own place its reader names."""
    if isinstance(node, Mapping):
        made: Corpus = build(node, where, ("documents",))
        return made
    if hasattr(node, "documents"):
        corpus: Corpus = node
        return corpus
    given = f"{where} is not set" if node is None else f"{where}={shown(node)}"
    raise ValueError(
        f"{given}: {what} is a corpus; give its _target_ and its keys, as conf/data does"
    )
