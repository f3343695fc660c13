"""A sweep of language models: its points read, counted and planned, their room, their text."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.budget.plan import OffBudgetError, check_memory
from experiments.config.once import remembering
from experiments.data.corpus import find_name
from experiments.data.prepare import is_prepared, prepare_data, prepare_sets
from experiments.data.progress import said
from experiments.language import refusals
from experiments.language.trunks import without_derived
from experiments.points.planning import check_effects, effective_id, here, plan_point, read_point
from experiments.points.point import Draft, Point
from experiments.sweep.counting import counted
from experiments.sweep.refusals import check_folder, of_points
from experiments.sweep.settings import with_settings

Raw = Mapping[str, Any]


def plan_points(raws: Sequence[Raw], *, stored: bool = False) -> list[Point]:
    """Points of a sweep, or one. Raises ValueError, before anything is written, for bad points
    (refusals.py), for two that are the same run, and for a folder that is another sweep's.

    stored: the configs are a manifest's. Others are composed now, and each setting that somebody
    gave must have an effect (config/effects.py).
    """
    with remembering():
        return _plan_points(raws, stored)


def _plan_points(raws: Sequence[Raw], stored: bool) -> list[Point]:
    drafts: list[Draft] = []
    bad: list[tuple[Raw, ValueError]] = []
    for raw in counted(raws, len(raws), "planning"):
        try:
            draft = read_point(raw)
            if not stored:
                check_effects(draft)
            drafts.append(draft)
        except ValueError as error:
            bad.append((raw, error))
    if bad:
        raise ValueError(of_points(bad, len(raws), refusals.named))
    points: list[Point] = []
    missed: list[tuple[Draft, OffBudgetError]] = []
    for draft in drafts:
        try:
            points.append(plan_point(draft))
        except OffBudgetError as error:
            missed.append((draft, error))
        except ValueError as error:  # of a law without a rate here, or a schedule too long
            bad.append((draft.raw, error))
    if bad:
        raise ValueError(of_points(bad, len(raws), refusals.named))
    if missed:
        raise ValueError(refusals.of_budgets(missed, drafts))
    if points:
        check_folder(points[0].sweep_dir, points[0].config.sweep)
    seen: dict[str, Point] = {}
    for point in points if len(points) > 1 else ():
        before = seen.setdefault(point.run_id if stored else effective_id(point), point)
        if before is not point:
            raise ValueError(refusals.of_one_run(before, point))
    return with_settings(without_derived(points))


def check_planned(points: Sequence[Point]) -> None:
    """Raises ValueError if the largest point has no room on the cluster's card that it is planned
    for.
    """
    planned = [point for point in points if point.device.card is not None]
    for point in sorted(planned, key=lambda p: -p.plan.memory.total)[:1]:
        what = f"{point.describe()}, on {point.device.describe()},"
        check_memory(point.plan.memory.total, point.device.memory, what)


def check_fits(points: Sequence[Point], n_sharing: int, setting: str = "") -> None:
    """Raises ValueError if the largest point, or n_sharing of it at once on its device, as that
    setting says, has no room here.
    """
    for point in sorted(points, key=lambda p: -p.plan.memory.total)[:1]:
        available = here(point).device.memory
        check_memory(point.plan.memory.total, available, point.describe())
        what = f"{setting}={n_sharing} times {point.describe()}"
        check_memory(n_sharing * point.plan.memory.total, available, what)


def prepare(points: Sequence[Point]) -> None:
    """Downloads and tokenizes once, before any run starts."""
    for point in points:
        data = point.config.data
        if not is_prepared(data, point.cache):
            size = data.tokenizer.n_entries()
            print(
                f"preparing {find_name(data.corpus)}: text, vocabulary of {size}, tokens",
                flush=True,
            )
        with said(find_name(data.corpus)):
            prepared = prepare_data(data, point.cache)
            prepare_sets(data, point.config.eval, prepared.vocabulary, point.cache)
