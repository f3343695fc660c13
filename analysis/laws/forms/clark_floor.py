"""L0 + K N^-a E'^-b: Clark's saturating number of experts with an irreducible loss."""

from analysis.laws.forms.power_floor import POWER_FLOOR
from analysis.laws.saturation import CAP_STARTS, KAPPA_STARTS

LAW = POWER_FLOOR.saturated(
    KAPPA_STARTS[::2],
    CAP_STARTS[1::2],
    every=2,
    name="clark_floor",
    formula="L = L0 + K N^-a E'^-b, E' as in clark",
    source="Clark's saturation with an irreducible loss",
)
