"""Why a sweep of language models is refused: the points, the fault, and values that would fit."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from experiments.budget.plan import OffBudgetError
from experiments.config.constraints import shown
from experiments.points.planning import fits, without_effect
from experiments.points.point import Draft, Point

_LISTED = 10  # points that a line names
_TRIED = 4096  # batch sizes


def of_budgets(missed: Sequence[tuple[Draft, OffBudgetError]], drafts: Sequence[Draft]) -> str:
    """All points whose steps miss the budget, and the largest batch that fits every point."""
    found = next(_fitting(drafts), None)
    present = drafts[0].config.ladder.batch_size
    if found is not None:
        fits = f"ladder.batch_size={found} (now {present}) fits" + (
            f" all {len(drafts)} points" if len(drafts) > 1 else ""
        )
    else:
        fits = f"no smaller ladder.batch_size (now {present}) fits" + (
            " all points: take other sizes or budgets" if len(drafts) > 1 else ""
        )
    if len(drafts) == 1:
        return f"{missed[0][1]}; {fits}"
    listed = [f"{named(draft.raw)} ({error.short})" for draft, error in missed[:_LISTED]]
    if more := len(missed) - len(listed):
        listed.append(f"and {more} more")
    return (
        f"{len(missed)} of {len(drafts)} points miss their budget by more than 1 % in whole steps: "
        f"{', '.join(listed)}; {fits}"
    )


def of_one_run(before: Point, point: Point) -> str:
    """Two points that are one run, and the settings without effect in which they differ."""
    ours = {one.name: one.value for one in without_effect(point)}
    theirs = {one.name: one.value for one in without_effect(before)}
    differ = [name for name in ours if name in theirs and ours[name] != theirs[name]]
    why = f"{', '.join(differ) or 'an argument they differ in'} has no effect"
    if not differ and _spelled(before) != _spelled(point):
        why = f"trunk {_spelled(before)} and {_spelled(point)} say the same"
    return (
        f"two points of the sweep are one run, {point.run_id} ({point.describe()}): "
        f"{why}; sweep each model with its own arguments"
    )


def _spelled(point: Point) -> str:
    trunk = point.config.trunk
    return f"ffn_blocks={trunk.ffn_blocks}, attention={trunk.attention}"


def _fitting(drafts: Sequence[Draft]) -> Iterator[int]:
    """Batch sizes that fit all points, the largest first."""
    largest = min(draft.config.ladder.batch_size for draft in drafts)
    trainer = drafts[0].config.trainer
    step = drafts[0].ranks.world_size * (trainer.micro_batch_size or 1)
    sizes = range(largest - largest % step, 0, -step)
    return (n for n in sizes[:_TRIED] if all(fits(draft, n) for draft in drafts))


def named(raw: Mapping[str, Any]) -> str:
    """A point as Point.describe() names it, from a config that may be wrong."""
    experts = "" if raw.get("n_experts") is None else f" N={raw['n_experts']}"
    budget = raw.get("budget")
    text = f"{budget:g}" if type(budget) in (int, float) else shown(budget)
    size, seed = shown(raw.get("size")), shown(raw.get("seed"))
    return f"{raw.get('model_name')}{experts} size={size} budget={text} seed={seed}"
