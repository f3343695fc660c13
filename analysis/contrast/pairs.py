"""Which differences are asked for, by name or by their layers."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from analysis import numbers
from analysis.contrast.points import Points
from analysis.fitting.text import join_first

_SAME = 1e-6  # relative, of budgets
FORM = "LAYER-BASELINE@FLOPS[,FLOPS]"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A difference that is asked for: of two layers, the mean over budgets in FLOPs."""

    layer: str
    baseline: str
    budgets: tuple[float, ...]

    @property
    def name(self) -> str:
        return f"{self.layer}-{self.baseline}@{','.join(map(numbers.flops, self.budgets))}"

    @property
    def cells(self) -> list[tuple[str, float]]:
        """(layer, budget) of the curves that it is of."""
        return [(name, budget) for name in (self.layer, self.baseline) for budget in self.budgets]


def parse_pair(text: str, points: Points) -> Pair:
    """A difference by its name, as FORM has it. Raises ValueError saying what it may be."""
    name, at, flops = text.partition("@")
    for i in [match.start() for match in re.finditer("-", name)]:
        layer, baseline = name[:i], name[i + 1 :]
        if layer in points.layers and baseline in points.layers and layer != baseline:
            break
    else:
        raise ValueError(f"primary={text!r} must be {FORM} of two of {', '.join(points.layers)}")
    budgets = tuple(_budget(text, part, points) for part in flops.split(",")) if at else ()
    if not budgets or len(set(budgets)) < len(budgets):
        raise ValueError(f"primary={text!r} must be {FORM}, each budget once")
    pair = Pair(layer=layer, baseline=baseline, budgets=budgets)
    for cell in pair.cells:
        if cell not in points.cells:
            at = numbers.flops(cell[1])
            raise ValueError(f"primary={text!r}: {cell[0]} has no curve at {at}")
    return pair


def _budget(text: str, part: str, points: Points) -> float:
    try:
        value = float(part)
    except ValueError:
        value = float("nan")
    for budget in points.budgets:
        if abs(value / budget - 1) < _SAME:
            return budget
    have = ", ".join(map(numbers.flops, points.budgets))
    raise ValueError(f"primary={text!r}: {part!r} is no budget of the curves; they have {have}")


def make_pairs(points: Points, layers: Sequence[str], baselines: Sequence[str]) -> list[Pair]:
    """Every layer minus every baseline, at each budget that both have."""
    for role, names in (("layer", layers), ("baseline", baselines)):
        for name in names:
            if name not in points.layers:
                have = join_first(points.layers, 8)
                raise ValueError(f"{role}={name!r} has no curve; there are {have}")
    subtracted = baselines or (points.layers if layers else ("dense",))
    every = [
        Pair(layer=layer, baseline=baseline, budgets=(budget,))
        for baseline in subtracted
        for layer in layers or points.layers
        for budget in points.budgets
        if layer != baseline
    ]
    found = [pair for pair in every if set(pair.cells) <= set(points.cells)]
    if not found:
        raise ValueError(
            f"no two layers to compare: baseline={', '.join(subtracted)!r}, and there are "
            f"{join_first(points.layers, 8)}; name one of them as baseline"
        )
    return found


def over_budgets(pairs: Sequence[Pair]) -> list[Pair]:
    """Each two layers once, at all budgets of their pairs."""
    found: dict[tuple[str, str], set[float]] = {}
    for pair in pairs:
        found.setdefault((pair.layer, pair.baseline), set()).update(pair.budgets)
    return [
        Pair(layer=layer, baseline=baseline, budgets=tuple(sorted(budgets)))
        for (layer, baseline), budgets in found.items()
    ]
