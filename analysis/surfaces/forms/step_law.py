"""Parabolas about Step Law's best rate and batch: Li 2025 (arXiv:2503.04715), abstract and the
result of its fit.

The best rate is a power of N and D, the best batch one of D alone; at a given N and D the loss is
convex in both. The paper has no surface: parabolas in the logarithms are ours.
"""

from analysis.surfaces.rate_and_batch import rate_form

FORM = rate_form(
    name="step_law",
    exponents=("lr_N", "lr_D", "batch_D"),
    widths=False,
    skewed=False,
    formula="L = E + A n^-alpha + B d^-beta + k_lr ln(lr/lr*)^2 + k_batch ln(batch/batch*)^2, "
    "lr* = lr_0 n^lr_N d^lr_D, batch* = batch_0 d^batch_D, n = N/N0, d = D/D0",
    source="optima of Step Law, Li 2025 (arXiv:2503.04715)",
)
