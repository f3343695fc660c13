"""Colours and markers of models, the same in the analysis's figures and on a sweep's page."""

import re
from collections.abc import Iterable, Mapping

# Apart for normal and colour-blind sight (Machado 2009's simulation of protan-, deuter- and
# tritanopia: 26 in CIELAB or more), and on a white as on a dark page.
MODEL_COLOURS: Mapping[str, str] = {
    "dense": "#294dfc",
    "none": "#6a6a68",
    "moe": "#cca624",
    "moe_fine": "#c25e3a",
    "pkm": "#3fbe86",
    "peer": "#9c4998",
}
OTHERS = (  # less far apart: markers help
    "#39a2ca", "#908b02", "#8043cd", "#90b666", "#a28afe", "#863e2e", "#67919b", "#973000",
)  # fmt: skip
MARKERS = ("o", "P", "s", "X", "D", "^", "v", "<", ">", "p")  # as matplotlib names them


def model_order(models: Iterable[str]) -> list[str]:
    """Harness's models first, always all of them, so that ranks do not depend on the data."""
    return [*MODEL_COLOURS, *sorted({*models} - set(MODEL_COLOURS), key=natural)]


def model_colour(model: str, order: list[str]) -> str:
    """Colour of a model, #rrggbb. order: model_order's."""
    others = order.index(model) - len(MODEL_COLOURS)
    return MODEL_COLOURS[model] if model in MODEL_COLOURS else OTHERS[others % len(OTHERS)]


def natural(name: str) -> list[tuple[int, float, str]]:
    """A sort key by which n_experts=256 comes before n_experts=4096."""
    parts = re.split(r"(\d+(?:\.\d+)?)", name)
    return [(0, float(p), "") if i % 2 else (1, 0.0, p) for i, p in enumerate(parts)]
