"""Clark's law, bilinear in log10 N and the logarithm of a number of experts that saturates."""

from analysis.laws.forms.loglinear import LOGLINEAR
from analysis.laws.saturation import CAP_STARTS, KAPPA_STARTS

LAW = LOGLINEAR.saturated(
    KAPPA_STARTS,
    CAP_STARTS,
    name="clark",
    formula="log10 L = a log10 N + b log10 E' + c log10 N log10 E' + d, "
    "1/E' = 1/(E-1+1/(1/E_start-1/E_max)) + 1/E_max",
    source="Clark 2022 (arXiv:2202.01169), eqs. 1 and 2",
    has_floor=False,
)
