"""From records to fitted isoFLOP curves and figures. Never imports torch.

import analysis
table = analysis.load_table("results/demo")
fit = analysis.fit_isoflop(table)
analysis.draw_isoflop(table, fit).savefig("isoflop.png")
"""

from analysis.figures import draw_isoflop
from analysis.isoflop import fit_isoflop
from analysis.results import FitError, FitStatus, IsoFLOPCurve, IsoFLOPFit
from analysis.table import load_table

__all__ = [
    "FitError",
    "FitStatus",
    "IsoFLOPCurve",
    "IsoFLOPFit",
    "draw_isoflop",
    "fit_isoflop",
    "load_table",
]
