"""IsoFLOP curves, their minima, and power laws of compute."""

from analysis.isoflop.curves import IsoFLOPCurve, IsoFLOPFit
from analysis.isoflop.fit import fit_isoflop

__all__ = [
    "IsoFLOPCurve",
    "IsoFLOPFit",
    "fit_isoflop",
]
