"""Errors that intervals of a contrast hold beside the noise of runs, and those not in them."""

from dataclasses import dataclass
from pathlib import Path

from analysis.contrast.beside import Beside, OfRates, of_documents
from analysis.contrast.points import Points
from analysis.rates.saved import read_rates
from analysis.table.documents import Documents

_NOISE = "the noise of runs (seeds, or the scatter about the curves)"
_DOCUMENTS, _RATES = "which documents were held out", "rates that are not the best"


@dataclass(frozen=True, kw_only=True)
class Sources:
    """lacks: what intervals don't hold, with the reason or the remedy."""

    beside: tuple[Beside, ...] = ()
    lacks: tuple[str, ...] = ()

    @property
    def holds(self) -> tuple[str, ...]:
        return (_NOISE, *(one.said for one in self.beside))


NOISE_ALONE = Sources(lacks=(_DOCUMENTS, _RATES))


def find_sources(points: Points, documents: Documents | None, rates: Path | None) -> Sources:
    """Documents count where they can; rates where they are given.

    Raises ValueError, a line, where the rates' file is none, or says nothing of these runs.
    """
    beside: list[Beside] = []
    lacks = []
    if documents is None or not documents.of:
        lacks.append(f"{_DOCUMENTS} (no record has losses by document)")
    else:
        try:
            beside.append(of_documents(points, documents))
        except ValueError as error:
            lacks.append(f"{_DOCUMENTS} ({error})")
    if points.x_name == "lr":
        if rates is not None:
            raise ValueError(f"x=lr finds the best rates itself: leave out rates={rates}")
    elif rates is None:
        lacks.append(f"{_RATES} (--rates FOLDER/rates.json adds them)")
    else:
        saved = read_rates(rates)
        try:
            draws = saved.costs(points.rows)
        except ValueError as error:
            raise ValueError(f"rates={rates}: {error}") from None
        beside.append(OfRates(draws=draws, path=saved.path))
    return Sources(beside=tuple(beside), lacks=tuple(lacks))
