"""App that this project is made for: language models, trained at a budget and compared.

Quick to import: a command that only asks where a sweep stands has no use for torch.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from experiments.config import hydra_hints
from experiments.language import objectives, places, plain
from experiments.records import kept
from experiments.records.app_record import Record
from experiments.records.files import HISTORY_NAME, RECORD_NAME, read_record
from experiments.records.record import RunRecord
from experiments.sweep.app import App, Progress, Raw
from experiments.system.text_table import duration

if TYPE_CHECKING:
    from experiments.points.point import Point


class LanguageModels(App["Point"]):
    """FLOPs are training FLOPs."""

    modules: ClassVar[tuple[str, ...]] = ("experiments.training.execute",)

    def plan(self, raws: Sequence[Raw], *, stored: bool) -> "Sequence[Point]":
        from experiments.language.planning import plan_points

        return plan_points(raws, stored=stored)

    def run_id(self, raw: Raw) -> str:
        from experiments.points.planning import compute_run_id

        return compute_run_id(raw)

    def run_id_of_result(self, point: "Point") -> str:
        from experiments.points.planning import effective_id

        return effective_id(point)

    def check_word(self, word: str) -> None:
        hydra_hints.check_choices(word)

    def plan_text(self, points: "Sequence[Point]") -> str:
        from experiments.language.estimate import assumed_rate
        from experiments.language.plan_table import plan_table
        from experiments.points.emulated import emulation_lines

        table = plan_table(points, assumed_rate(points[0]))
        return "\n".join([table, *emulation_lines(points)])

    def seconds(self, points: "Sequence[Point]") -> float | None:
        from experiments.language.estimate import seconds_of_all

        return seconds_of_all(points)

    def check_planned(self, points: "Sequence[Point]") -> None:
        from experiments.language.planning import check_planned

        check_planned(points)

    def check_fits(self, points: "Sequence[Point]", n_sharing: int, setting: str = "") -> None:
        from experiments.language.planning import check_fits

        check_fits(points, n_sharing, setting)

    def is_plain(self, raw: Raw) -> bool:
        return plain.is_plain(raw)

    def relocatable(self, raw: Raw, sweep_dir: Path) -> dict[str, Any]:
        return places.relocatable(raw, sweep_dir)

    def located(self, raw: Raw, sweep_dir: Path) -> dict[str, Any]:
        return places.located(raw, sweep_dir)

    def check_search(self, keys: Collection[str], objective: str) -> None:
        objectives.check_objective(objective)
        objectives.check_fair(keys, objective)

    def check_scored(self, point: "Point", objective: str) -> None:
        objectives.check_scored(objective, point.config.eval)
        if point.branch is not None:
            raise ValueError(
                "hydra.sweeper.search with optim.branch_from: each trial has a trunk of its "
                "own, so branches save nothing; set optim.branch_from=null"
            )

    def trunks(self, points: "Sequence[Point]") -> "Sequence[Point]":
        from experiments.language.trunks import make_trunks

        return make_trunks(points)

    def check_trunks(self, points: "Sequence[Point]") -> None:
        from experiments.language.trunks import check_places

        check_places(points)

    def prepare(self, points: "Sequence[Point]") -> None:
        from experiments.language.planning import prepare

        prepare(points)

    def enter(self, points: "Sequence[Point]") -> None:
        """Tells trunks where these points start from them."""
        for point in points:
            if point.branch is not None:
                kept.enter(point.branch.folder, point.run_id, point.branch.n_steps)

    def begin(self, point: "Point", trunks: "Sequence[Point]") -> bool:
        from experiments.sweep.queue import launchers
        from experiments.system import distributed

        distributed.check_started(point.ranks)
        if trunks and point.ranks.world_size > 1:
            raise ValueError(
                f"optim.branch_from={point.config.optim.branch_from} with "
                f"{point.ranks.world_size} ranks trains one run a command: train the trunk first, "
                "with optim.schedule=trunk and optim.branch_from=null, or use "
                f"hydra/launcher={launchers(of_ranks=True)} with -m"
            )
        return not distributed.is_other_rank(point.ranks)

    def execute(
        self,
        point: "Point",
        progress: Progress = lambda row: None,
        n_threads: int | None = None,
        on_stall: Callable[[str], object] = lambda why: None,
    ) -> RunRecord:
        from experiments.training.execute import execute

        return execute(point, progress, n_threads, on_stall)

    def here(self, point: "Point") -> "Point":
        from experiments.points.planning import here

        return here(point)

    def repair(self, point: "Point") -> None:
        """Writes the rows of its history again, from its checkpoint."""
        from experiments.training.history import repair

        path = point.run_dir / HISTORY_NAME
        if repair(point.run_dir, read_record(point.run_dir / RECORD_NAME)):
            print(f"{path} ended before its run did: written again from last.ckpt")
        else:
            print(f"warning: {path} ends before its run did, and last.ckpt lacks its rows too")

    def ended_text(self, record: Record) -> str:
        assert isinstance(record, RunRecord)
        if record.val_loss is None:
            return f"step {record.n_steps}, in {duration(record.wall_seconds or 0)}"  # of a trunk
        text = (
            f"loss {record.val_loss:.4f}  perplexity {record.perplexity:.1f}  "
            f"{record.bits_per_byte:.3f} bits/byte  in {duration(record.wall_seconds or 0)}"
        )
        if record.flops_per_second:
            text += f" at {record.flops_per_second / 1e9:.1f} GFLOP/s"
        if record.compile_seconds:
            text += f", {duration(record.compile_seconds)} of it compiling"
        return text

    def ended_lines(self, point: "Point", record: Record, *, before: bool) -> list[str]:
        """Its scores on named sets; of one that had ended before, which sets it has none of."""
        assert isinstance(record, RunRecord)
        if before:
            return _missing_sets(point.run_dir, point.config.eval, record)
        if not record.evaluations:
            return []
        from experiments.training.evaluation import results_table

        return [results_table(record.evaluations)]


def _missing_sets(run_dir: Path, sets: Mapping[str, Any], record: RunRecord) -> list[str]:
    """How to score a finished run on sets that it was not scored on."""
    scored = {label.partition("@")[0].partition("/")[0] for label in record.evaluations}
    missing = ",".join(name for name in sets if name not in scored)
    if not missing or record.status != "done" or record.is_trunk:
        return []
    return [f"not scored on {missing}: python -m experiments.evaluate {run_dir} eval=[{missing}]"]


APP = LanguageModels()
