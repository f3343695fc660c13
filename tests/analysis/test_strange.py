"""Strange tables: a result with its warnings, and nothing from numpy beside it."""

import numpy as np

from analysis.parametric import fit_parametric
from tests.analysis.tables import HOFFMANN, around_the_optimum


def test_losses_that_rise_with_size_have_an_optimum_of_numbers():
    N, D = around_the_optimum(np.geomspace(1e17, 1e20, 5), 6, 8.0, HOFFMANN)[1:]
    fit = fit_parametric(N, D, 2 + 1e-9 * N, n_draws=30)
    assert "bound hit" in fit.summary()
    for name, found in fit.optimum(1e21).items():  # ln N of some draws is in the thousands
        assert np.isfinite(found).all(), name
