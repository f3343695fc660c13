"""From records to fitted laws with intervals, diagnostics, figures and a report. Without torch.

import analysis
table = analysis.load_table("results/demo")
fit = analysis.fit_isoflop(table)
print(fit)
analysis.draw_isoflop(table, fit).savefig("isoflop.png")
"""

import lazy_loader

# The names are in __init__.pyi; lazy_loader reads them there and imports what is used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
