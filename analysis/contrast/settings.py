"""Choices of a contrast, which a command, a registration and Python share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analysis.contrast.curves import Centres, Curvature
from analysis.fitting.checks import check_level, positive


@dataclass(frozen=True, kw_only=True)
class Settings:
    """layers, baselines: each of the first minus each of the second at every budget that both have;
    by default all layers minus dense, or the named layers minus all others. primary: of these or
    others, as "peer-none@3e13" or with several budgets for their mean: Holm's correction is for
    them; None: for all. centres: "free", or "layer+budget": u* is a sum of two parts. curvature:
    "one" k for all, or one a "layer". classes: name -> layers of equal noise (noise.classes_of).
    errors: whether noise is of "seeds", of the "scatter" about the curves, or "auto": of seeds
    where the scatter is not significantly larger. margin: nats, within which two lowest losses
    count as equal. stop: a half-width in nats; the seeds that the primary differences need for it.

    Raises ValueError for a margin, stop or level that is none.
    """

    layers: Sequence[str] = ()
    baselines: Sequence[str] = ()
    primary: Sequence[str] | None = None
    centres: Centres = "free"
    curvature: Curvature = "one"
    classes: Mapping[str, Sequence[str]] | None = None
    errors: str = "auto"
    margin: float | None = None
    stop: float | None = None
    level: float = 0.95

    def __post_init__(self) -> None:
        check_level(self.level)
        for name in ("margin", "stop"):
            if (value := getattr(self, name)) is not None:
                positive(name, value)
