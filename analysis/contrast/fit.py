"""Curves of a table's points with all that intervals and tests of them need."""

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.contrast.beside import Beside
from analysis.contrast.curves import Design, Of, make_design, summed
from analysis.contrast.intervals import Ellipsoid
from analysis.contrast.noise import Classes, Fitted, fit_with_noise, noise_classes
from analysis.contrast.pairs import Pair
from analysis.contrast.points import Points
from analysis.contrast.settings import Settings
from analysis.fitting.status import FitError


@dataclass(frozen=True, kw_only=True, eq=False)
class Fit:
    """classes, p_classes: as of noise_classes; about: the numbers about the best fit."""

    points: Points
    design: Design
    fitted: Fitted
    about: Ellipsoid
    classes: Classes
    p_classes: float

    @property
    def cells(self) -> tuple[tuple[str, float], ...]:
        return self.points.cells

    def lowest(self, layer: str, budget: float) -> Of:
        """Lowest loss of a curve."""
        return self.design.minimum(self.cells.index((layer, budget)))

    def difference(self, pair: Pair) -> Of:
        """Difference of lowest losses of a pair, its mean over budgets (nats/token)."""
        share = 1 / len(pair.budgets)
        signs = ((pair.layer, share), (pair.baseline, -share))
        return summed([(by, self.lowest(name, b)) for b in pair.budgets for name, by in signs])


def fit_points(points: Points, settings: Settings, beside: Sequence[Beside] = ()) -> Fit:
    """beside: errors of the losses that the noise has not. Raises as compute_contrasts does."""
    of_class, p_classes = noise_classes(points, settings.classes)
    design = make_design(points, settings.centres, settings.curvature)
    fitted = fit_with_noise(points, design, of_class, settings.errors)
    if not (fitted.curves.bends > 0).all():
        raise FitError(
            "the curves open downwards, so they have no lowest loss: take sizes nearer to the best"
        )
    return Fit(
        points=points,
        design=design,
        fitted=fitted,
        about=Ellipsoid(fitted, beside),
        classes=of_class,
        p_classes=p_classes,
    )
