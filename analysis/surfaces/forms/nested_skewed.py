"""Nested valleys that rise by one exponential above the best rate or batch and by another below.

As `nested`, but for three things. Valleys are g(x) = 2/(u + v) ((e^(ux) - 1)/u - (1 - e^(-vx))/v),
which is x^2 near 0: losses rise faster above the best rate than below it (docs/rates.md), where the
rise is a straight line (v = 0). The best rate bends in the batch. And what tokens are worth goes
with the size, as in Farseer's law (arXiv:2506.10972), by one exponent.
"""

from analysis.surfaces.rate_and_batch import rate_form

FORM = rate_form(
    name="nested_skewed",
    exponents=("lr_N", "lr_D", "lr_batch", "lr_bend", "batch_D", "batch_N", "B_N"),
    widths=True,
    skewed=True,
    formula="L = E + A n^-alpha + B n^B_N d^-beta + k_lr n^k_lr_N d^k_lr_D g(ln(lr/lr*)) + "
    "k_batch n^k_batch_N d^k_batch_D g(y), lr* = lr_0 n^lr_N d^lr_D e^(lr_batch y + lr_bend y^2), "
    "y = ln(batch / (batch_0 d^batch_D n^batch_N)), n = N/N0, d = D/D0",
    source="this project; optima as in Step Law, Li 2025 (arXiv:2503.04715)",
)
