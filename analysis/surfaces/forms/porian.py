"""Parabolas about best rates and batches that go with the size alone: Porian 2024
(arXiv:2406.19146), whose laws of the best rate and batch are powers of N.

Its runs are compute-optimal, so that tokens go with N. The paper has no surface: parabolas in the
logarithms are ours.
"""

from analysis.surfaces.rate_and_batch import rate_form

FORM = rate_form(
    name="porian",
    exponents=("lr_N", "batch_N"),
    widths=False,
    skewed=False,
    formula="L = E + A n^-alpha + B d^-beta + k_lr ln(lr/lr*)^2 + k_batch ln(batch/batch*)^2, "
    "lr* = lr_0 n^lr_N, batch* = batch_0 n^batch_N, n = N/N0, d = D/D0",
    source="optima of Porian 2024 (arXiv:2406.19146)",
)
