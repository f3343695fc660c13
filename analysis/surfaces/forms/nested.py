"""Parabola in the rate, about a best rate that goes with the batch, within one in the batch.

Best rate and batch are powers of N and D, as in Step Law (Li 2025, arXiv:2503.04715), and so are
the widths of the valleys. At batches other than the best one the best rate is another, which no
product of powers of N and D has.
"""

from analysis.surfaces.rate_and_batch import rate_form

FORM = rate_form(
    name="nested",
    exponents=("lr_N", "lr_D", "lr_batch", "batch_D", "batch_N"),
    widths=True,
    skewed=False,
    formula="L = E + A n^-alpha + B d^-beta + k_lr n^k_lr_N d^k_lr_D ln(lr/lr*)^2 + "
    "k_batch n^k_batch_N d^k_batch_D y^2, lr* = lr_0 n^lr_N d^lr_D e^(lr_batch y), y = "
    "ln(batch / (batch_0 d^batch_D n^batch_N)), n = N/N0, d = D/D0",
    source="this project; optima as in Step Law, Li 2025 (arXiv:2503.04715)",
)
