"""Losses of mixtures of experts under several routers, which have some parameters in common.

L = L0 + K N^-a (E'/E'(1))^-b, where E' is Clark's saturating number of experts (laws/saturation.py)
and N the parameters without experts. One expert is a dense layer, which no router changes: E' is
taken by its value there, so that L0, K and a are those of dense models. Clark 2022
(arXiv:2202.01169) fits a law to each router apart, in ln L, without L0.
"""

from collections.abc import Mapping
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from analysis.fitting.intervals import Array
from analysis.fitting.least_squares import Model
from analysis.fitting.status import FitError
from analysis.fitting.text import pluralize
from analysis.laws.law import Centre, Start, floor_texts
from analysis.laws.saturation import AT_BOUND, CAP, KAPPA, saturation, start_and_max
from analysis.surfaces.form import KIND, Column, Form, N, Points, Table

ROUTER = Column(name="router", aliases=("router_type", "routing", "router_kind"))
EXPERTS = Column(name="n_experts")
PARAMETERS = ("L0", "K", "a", "E_start", "E_max", "b")

_FLOORS = (0.0, 0.4, 0.6, 0.75, 0.85, 0.92, 0.97)  # shares of the lowest loss to start from
_KAPPAS, _CAPS = np.log([1.0, 4.0, 15.0]), np.log([80.0, 400.0, 1e4])
_CHOSEN = 12  # points of the grid to start from
_EXPONENT, _BY_EXPERTS = (-1.0, 3.0), (-2.0, 3.0)
_LEAST, _MOST = 1e-4, 1e4  # of the term in the middle, in the losses' range
_ABOVE = 0.05  # of the losses' range: noise takes a lowest loss below the floor


def routed(*, by_router: tuple[str, ...], **form: Any) -> Form:
    """Form with a parameter of its own for each router where by_router names it, of PARAMETERS.

    E_start and E_max go together: what is fitted is kappa, which both are in. form: the other
    fields of Form. Its `of_table` raises FitError for a table of fewer than two routers of more
    than one expert, ValueError for such a run whose router is missing.
    """

    def of_table(columns: Table) -> Form:
        return _make(_routers(columns), by_router, {**form, "of_table": of_table})

    return _make(("a", "b"), by_router, {**form, "of_table": of_table})


def _routers(columns: Table) -> tuple[str, ...]:
    """Names of the routers of more than one expert, sorted."""
    if ROUTER.name not in columns or EXPERTS.name not in columns:
        raise FitError(f"forms of routers need {ROUTER.name} and {EXPERTS.name}")
    names = np.asarray(columns[ROUTER.name], dtype=object).ravel()
    sparse = np.asarray(columns[EXPERTS.name], dtype=np.float64).ravel() > 1
    if (unnamed := sparse & pd.isna(names)).any():
        raise ValueError(
            f"{ROUTER.name}[{int(unnamed.argmax())}] is missing, of a run of more than one expert"
        )
    found = tuple(sorted({str(name) for name in names[sparse]}))
    if len(found) < 2:
        raise FitError(
            f"{ROUTER.name} has {pluralize(len(found), 'value')} of more than one expert: a law of "
            "one router is that of `python -m analysis experts`"
        )
    return found


def _is(name: str, known: tuple[str, ...], router: ArrayLike, n_experts: ArrayLike) -> Array:
    """1 for runs of more than one expert with this router, else 0."""
    own, many = np.broadcast_arrays(np.asarray(router, dtype=object), np.asarray(n_experts) > 1)
    texts = own.astype(str)
    if (strange := many & ~np.isin(texts, known)).any():
        first = int(np.flatnonzero(strange.ravel())[0])
        raise ValueError(
            f"{ROUTER.name}[{first}]={str(texts.ravel()[first])!r} is not one of {', '.join(known)}"
        )
    return (many & (texts == name)).astype(np.float64)


def _make(routers: tuple[str, ...], by_router: tuple[str, ...], form: Mapping[str, Any]) -> Form:
    names: list[str] = []
    places = np.empty((len(routers), len(PARAMETERS)), dtype=int)  # of a router's in theta
    for j, name in enumerate(PARAMETERS):
        own = name in by_router
        places[:, j] = len(names) + (np.arange(len(routers)) if own else 0)
        names += [f"{name}.{router}" for router in routers] if own else [name]
    kind = np.array([name.partition(".")[0] for name in names])
    kinds = tuple(f"{KIND}{router}" for router in routers)

    def places_of(at: Points) -> np.ndarray:
        """Of each run's own parameters in theta (n, 6); a dense run is of no router, whose
        parameters of experts do not matter to it.
        """
        return places[np.stack([at[name] for name in kinds]).argmax(axis=0)]

    def model(at: Points, centre: Centre) -> Model:
        """theta: L0, ln K in the middle of the sizes, a, ln kappa and ln E_max, b."""
        where, n = places_of(at), np.log(at["n_params"]) - centre["n_params"]
        E, rows = at["n_experts"], np.arange(len(at))

        def of(theta: Array) -> tuple[Array, Array]:
            floor, height, a, kappa, top, b = np.moveaxis(theta[:, where], -1, 0)  # (S, n) each
            e, by_kappa, by_top = (
                many - one
                for many, one in zip(
                    saturation(E, kappa, top), saturation(np.ones(1), kappa, top), strict=True
                )
            )
            term = np.exp(height - a * n - b * e)
            parts = [np.ones_like(term), term, -term * n, -term * b * by_kappa, -term * b * by_top]
            jacobian = np.zeros((*term.shape, theta.shape[1]))
            for j, part in enumerate([*parts, -term * e]):
                jacobian[:, rows, where[:, j]] = part
            return floor + term, jacobian

        return of

    def start(at: Points, centre: Centre, loss: Array, fixed: tuple[str, ...]) -> Start:
        """Straight lines of ln(L - L0), for some floors and saturations that all have."""
        where, n = places_of(at), np.log(at["n_params"]) - centre["n_params"]
        rows, spread, found = np.arange(len(at)), float(np.ptp(loss)) or 1.0, []
        low, high = np.log(_LEAST * spread), np.log(_MOST * float(np.abs(loss).max()))
        lines = np.isin(kind, ("K", "a", "b"))
        for share, kappa, top in product(_FLOORS, _KAPPAS, _CAPS):
            ends = np.array([[kappa]]), np.array([[top]])
            e = (saturation(at["n_experts"], *ends)[0] - saturation(np.ones(1), *ends)[0])[0]
            design = np.zeros((len(at), len(names)))
            for name, values in (("K", np.ones_like(n)), ("a", -n), ("b", -e)):
                design[rows, where[:, PARAMETERS.index(name)]] = values
            floor = share * float(loss.min())
            solved, *_ = np.linalg.lstsq(design[:, lines], np.log(loss - floor), rcond=None)
            theta = np.select(
                [kind == "L0", kind == "E_start", kind == "E_max"], [floor, kappa, top]
            )
            theta[lines] = solved
            off = model(at, centre)(theta[None])[0][0] - loss
            found.append((float(off @ off), theta))
        found.sort(key=lambda pair: pair[0])
        box = {
            "L0": (0.0, float(loss.min()) + _ABOVE * spread), "K": (low, high), "a": _EXPONENT,
            "E_start": KAPPA, "E_max": CAP, "b": _BY_EXPERTS,
        }  # fmt: skip
        lower, upper = np.array([box[name] for name in kind]).T
        rows_of = np.array([theta for _, theta in found[:_CHOSEN]])
        return Start(starts=np.clip(rows_of, lower, upper), lower=lower, upper=upper)

    def natural(theta: Array, centre: Centre) -> Array:
        found = theta.copy()
        for own in places:
            _, height, a, kappa, top, _ = own
            found[:, height] = np.exp(theta[:, height] + theta[:, a] * centre["n_params"])
            ends = start_and_max(theta[:, kappa], theta[:, top])
            found[:, kappa], found[:, top] = ends
        return found

    texts = {**floor_texts("L0", " of the runs: it is not identifiable"), **AT_BOUND}
    return Form(
        subject="routers",
        columns=(
            N,
            EXPERTS,
            *(
                Column(
                    name=f"{KIND}{router}",
                    derived=((ROUTER.name, EXPERTS.name), partial(_is, router, routers)),
                )
                for router in routers
            ),
        ),
        kind=ROUTER,
        edges=("n_params", "n_experts"),
        names=tuple(names),
        model=model,
        start=start,
        natural=natural,
        logs=tuple(name for name in names if name.partition(".")[0] in ("K", "E_start", "E_max")),
        tells={
            "n_params": tuple(name for name in names if name.startswith("a")),
            "n_experts": tuple(name for name in names if name.startswith("b")),
        },
        at_bound={
            (name, top): text
            for name in names
            for (own, top), text in texts.items()
            if name.partition(".")[0] == own
        },
        **form,
    )
