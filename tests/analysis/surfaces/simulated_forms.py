"""Table of docs/other_surfaces.md: what forms in other columns say beyond their runs, where the
form is true, and where it is not: an exponent changes in the middle of the runs, as that of `broken
in D` in docs/surfaces.md does, from .28 to .16; of a mixture, a share counts by its square too.

    python -m tests.analysis.surfaces.simulated_forms 20

A noise of 0.004 nats. All columns are at twice the runs' largest, then at ten times; of a mixture,
whose runs have at most .6 of a domain, at .8 of one, then at that one alone.
"""

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from tqdm import tqdm

from analysis.surfaces.form_compare import compare_forms
from tests.analysis.surfaces.made_forms import D0, MADE, N0, rates

FIRST = 11_000  # seed; the mechanism was chosen on 7,000 and on, and looked at on 9,000 and on
SD = 0.004
Law = Callable[[pd.DataFrame], pd.Series]


@dataclass(frozen=True, kw_only=True)
class Beyond:
    """A subject's runs, the law that is its form, one that is not, and places beyond: near, far."""

    runs: pd.DataFrame
    law: Law
    other: Law
    places: pd.DataFrame


def lost(x, turn):
    """What ln x loses beyond a turn, so that a power of it goes on by 16 of 28 parts of its
    exponent; as sharply as truths.broken.
    """
    return 12 / 28 * np.logaddexp(0.0, 4 * (x - np.log(turn))) / 4


def _times(runs, factors, **more):
    top = runs.max()
    return pd.DataFrame([{name: top[name] * k for name in runs} for k in factors]).assign(**more)


def rates_drift(t):
    d = np.log(t["n_tokens"])
    tokens = 0.4 * (t["n_tokens"] / D0) ** -0.35
    return MADE["nested"][0](t) + tokens * (np.exp(0.35 * lost(d, D0)) - 1)


def vocabulary_drifts(t):
    tokens = 1e4 * t["n_tokens"] ** -0.43
    return MADE["vocabulary"][0](t) + tokens * (np.exp(0.43 * lost(np.log(t["n_tokens"]), 2e9)) - 1)


def rectified_drifts(t):
    x = np.log(t["n_examples"])
    return 60.0 / (40.0 + np.exp(0.7 * (x - lost(x, 2e4)))) + 1.2


def parallel_drifts(t):
    x = np.log(t["n_params"] * (1 + 0.35 * np.log(t["n_streams"])) / 4e9)
    return 0.9 + np.exp(-0.25 * (x - lost(x, 0.5)))


def routers_drift(t):
    """As parallel_drifts, in the size; its turn is in the middle of the runs."""
    n = np.log(t["n_params"])
    return MADE["router_experts"][0](t.assign(n_params=np.exp(n - lost(n, np.sqrt(2e7 * 1e9)))))


def mixture_bends(t):
    return MADE["data_mixing"][0](t) + 0.3 * t["share.code"] ** 2


def _mixtures():
    shares = np.random.default_rng(5).dirichlet([1.0, 1.0, 1.0], 200)
    runs = pd.DataFrame(shares, columns=["share.web", "share.code", "share.books"])
    return runs[(runs <= 0.6).all(axis=1)].head(40).reset_index(drop=True)


def _rates_places(runs):
    """At the best rate and batch of the law `nested` there."""
    far = _times(runs, (2, 10))
    n, d = far["n_params"] / N0, far["n_tokens"] / D0
    return far.assign(lr=2e-3 * n**-0.6 * d**0.25, batch=250.0 * n**-0.1 * d**0.4)


def _routers_places(runs):
    """Of the router that is better."""
    return _times(runs[["n_params", "n_experts"]], (2, 10), router="base")


def _of(name, other, places, runs=None):
    law, own, _ = MADE[name]
    runs = own if runs is None else runs
    return Beyond(runs=runs, law=law, other=other, places=places(runs))


def _vocabulary_places(runs):
    return _times(runs, (2, 10))


SUBJECTS = {
    "rates": _of("nested", rates_drift, _rates_places, rates(6, 4, 3)),
    "vocabulary": _of("vocabulary", vocabulary_drifts, _vocabulary_places),
    "fine_tuning": _of("rectified", rectified_drifts, _vocabulary_places),
    "mixture": Beyond(
        runs=_mixtures(),
        law=MADE["data_mixing"][0],
        other=mixture_bends,
        places=pd.DataFrame(
            {"share.web": [0.1, 0.0], "share.code": [0.8, 1.0], "share.books": [0.1, 0.0]}
        ),
    ),
    "routers": _of("router_experts", routers_drift, _routers_places),
    "streams": _of("parallel", parallel_drifts, _vocabulary_places),
}


def of_tables(subject: str, true: bool, n: int, first: int = FIRST) -> pd.DataFrame:
    """A row a table: whether 95 % intervals of a new run hold one, near and far, their widths in
    nats, and whether a warning says that the form misses runs.
    """
    of = SUBJECTS[subject]
    law = of.law if true else of.other
    exact, beyond = law(of.runs).to_numpy(), law(of.places).to_numpy()
    rows = []
    for seed in range(first, first + n):
        rng = np.random.default_rng(seed)
        loss = exact + SD * rng.normal(size=len(exact))
        new = beyond + SD * rng.normal(size=len(beyond))
        found = compare_forms(of.runs, loss, subject, seed=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of places that far
            band = found.predict(of.places, new_run=True)
        held = (band.lower <= new) & (new <= band.upper)
        rows.append(
            {
                "near": held[0],
                "far": held[1],
                "flagged": any("misses" in text for text in found.warnings),
                "width near": band.upper[0] - band.lower[0],
                "width far": band.upper[1] - band.lower[1],
                "off near": abs(band.value[0] - new[0]),
                "off far": abs(band.value[1] - new[1]),
            }
        )
    return pd.DataFrame(rows)


def coverage(subject: str, true: bool, n: int, first: int = FIRST) -> dict[str, float]:
    """Shares over n tables, and median widths and errors in nats."""
    frame = of_tables(subject, true, n, first)
    shares = frame[["near", "far", "flagged"]].astype(float)
    rest = frame.drop(columns=shares.columns)
    return {**shares.mean(), **rest.median()}


def main(n: int, first: int = FIRST) -> None:
    rows = {
        f"{subject}, {'true' if true else 'another law'}": coverage(subject, true, n, first)
        for subject in tqdm(SUBJECTS)
        for true in (True, False)
    }
    pd.set_option("display.width", 250)
    print(pd.DataFrame(rows).T.to_string(float_format=lambda share: f"{share:.3f}"))


if __name__ == "__main__":
    main(*(int(v) for v in sys.argv[1:]))
