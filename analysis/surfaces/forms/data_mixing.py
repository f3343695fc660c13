"""Loss on a domain in the shares of the training data: Ye 2024 (arXiv:2403.16952), the law of its
several training domains.

L_i = c_i + k_i exp(sum_j t_ij r_j), of one size and length. The shares r sum to one, so that k and
a constant in all t are one parameter, and k is 1 here. One law is of the loss on one domain.
"""

import numpy as np

from analysis.fitting.intervals import Array
from analysis.fitting.least_squares import Model
from analysis.fitting.status import FitError
from analysis.laws.law import Centre, Start, floor_texts
from analysis.surfaces.form import SHARE, Column, Form, Points, Table

_FLOORS = (0.0, 0.3, 0.6, 0.9)  # shares of the lowest loss to start from
_ABOVE = 0.05  # of the losses' range: noise takes a lowest loss below the floor
_STEEP = 30.0  # of t: more is a loss that a share of a tenth changes by a factor e^3


def _make(columns: Table) -> Form:
    shares = tuple(name for name in map(str, columns) if name.startswith(SHARE))
    if len(shares) < 2:
        have = ", ".join(shares) or "none"
        raise FitError(
            f"data_mixing is in the shares of two domains or more, columns {SHARE}NAME; "
            f"found {have}"
        )

    def model(at: Points, centre: Centre) -> Model:
        """theta: c, and t of each domain."""
        r = np.stack([at[name] for name in shares], axis=1)

        def of(theta: Array) -> tuple[Array, Array]:
            term = np.exp(theta[:, 1:] @ r.T)
            columns = [np.ones_like(term)[:, :, None], term[:, :, None] * r]
            return theta[:, :1] + term, np.concatenate(columns, axis=-1)

        return of

    def start(at: Points, centre: Centre, loss: Array, fixed: tuple[str, ...]) -> Start:
        """Straight lines of ln(L - c), for some floors c."""
        r = np.stack([at[name] for name in shares], axis=1)
        floors = [share * float(loss.min()) for share in _FLOORS]
        rows = [[c, *np.linalg.lstsq(r, np.log(loss - c), rcond=None)[0]] for c in floors]
        k = len(shares)
        return Start(
            starts=np.array(rows),
            lower=np.array([0.0, *[-_STEEP] * k]),
            upper=np.array([float(loss.min() + _ABOVE * np.ptp(loss)), *[_STEEP] * k]),
        )

    names = tuple(f"t.{name.removeprefix(SHARE)}" for name in shares)
    return Form(
        columns=tuple(Column(name=name) for name in shares),
        edges=shares,
        names=("c", *names),
        model=model,
        start=start,
        natural=lambda theta, centre: theta.copy(),
        tells={share: (name,) for share, name in zip(shares, names, strict=True)},
        at_bound=floor_texts("c", " of the data: these losses do not level off"),
        name="data_mixing",
        subject="mixture",
        formula="L = c + exp(sum_j t_j r_j)",
        source="Ye 2024 (arXiv:2403.16952), law of several training domains, k = 1",
        of_table=_make,
        condition_limit=3e3,
    )


FORM = _make({f"{SHARE}a": 0.5, f"{SHARE}b": 0.5})
