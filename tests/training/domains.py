"""Small corpora that differ, to be learnt one after another."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DOMAINS = {
    "sea": ("ship", "wave", "salt", "wind", "sail", "gull", "storm", "deep", "rope"),
    "farm": ("cow", "hay", "barn", "milk", "plough", "seed", "goose", "field", "rain"),
    "town": ("tram", "clerk", "shop", "bell", "crowd", "lamp", "bridge", "square", "smoke"),
}


@dataclass(frozen=True, kw_only=True)
class Words:
    """Documents of one domain's words."""

    domain: str

    def documents(self, split: str, cache: Path) -> Iterator[str]:
        words = DOMAINS[self.domain]
        for i in range(60 if split == "train" else 12):
            yield " ".join(words[(i * j + j * j) % len(words)] for j in range(40)) + " .\n"


def stream(order, **more):
    """A config node of a stream of these domains."""
    target = {name: {"_target_": f"{__name__}.Words", "domain": name} for name in DOMAINS}
    return {
        "_target_": "experiments.data.stream.DomainStream",
        "base": None,
        "domains": target,
        "order": list(order),
        **more,
    }
