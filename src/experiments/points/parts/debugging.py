"""A run that is there to be looked at, and is no result: `debug=NAME` (conf/debug)."""

import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from experiments.config.debug import DEBUG_SWEEP, Debug
from experiments.config.schema import RunConfig
from experiments.data.prepare import list_stages
from experiments.points.point import BuiltRun, Draft, Point, RunPart
from experiments.points.training_part import TrainingPart
from experiments.system.disk import write_text_atomically

PROFILE_NAME = "profile.txt"
_ROWS = 25  # of the profiler's table


@dataclass(frozen=True, kw_only=True)
class Debugging(RunPart):
    """So many steps whatever the budget; few windows; anomalies; a profile (config/debug.py)."""

    order = 10
    by_columns = True
    debug: Debug

    @classmethod
    def complete(cls, raw: Mapping[str, Any]) -> Mapping[str, Any]:
        """No more text than the windows need is tokenized."""
        windows = (raw.get("debug") or {}).get("windows")
        data = raw.get("data")
        if windows is None or not isinstance(data, Mapping):
            return raw
        with suppress(KeyError, TypeError):  # what is no number is refused where the config is read
            most = windows * data["seq_len"] + 1  # each with the token after it
            return {**raw, "data": {**data, "max_train_tokens": most}}
        return raw

    @classmethod
    def of(cls, config: RunConfig) -> "Debugging | None":
        return None if config.debug is None else cls(debug=config.debug)

    def refuse(self, draft: Draft) -> None:
        config, name = draft.config, self.debug.name
        if config.sweep != DEBUG_SWEEP:
            raise ValueError(
                f"debug={name} with sweep={config.sweep}: it is no result, and its place is "
                f"results/{DEBUG_SWEEP}; leave sweep out"
            )
        if self.debug.windows is not None and (config.data.streaming or list_stages(config.data)):
            stream = "data.streaming=true" if config.data.streaming else "a stream of domains"
            raise ValueError(
                f"debug={name} with {stream}, which has no first windows; give one text, as "
                "data=wikitext2, and data.streaming=false"
            )
        if self.debug.profile_after is not None and draft.ranks.world_size > 1:
            raise ValueError(
                f"debug={name} with {draft.ranks.world_size} ranks: it looks at one process; set "
                "trainer.devices=1 and trainer.num_nodes=1"
            )

    def priced(self, draft: Draft) -> Draft:
        """Budget of its steps, in place of the one that was given."""
        config, debug = draft.config, self.debug
        batch_tokens = draft.ranks.batch_size * config.data.seq_len
        budget = debug.steps * batch_tokens * draft.cost.training_flops
        given = config.budget if debug.of_budget is None else debug.of_budget
        node = {**draft.raw["debug"], "of_budget": given}
        return replace(
            draft,
            raw={**draft.raw, "budget": budget, "debug": node},
            config=replace(config, budget=budget, debug=replace(debug, of_budget=given)),
        )

    def batches(self) -> Mapping[str, Any]:
        return {} if self.debug.windows is None else {"most_windows": self.debug.windows}

    def note(self, point: Point) -> str:
        return f"debug={self.debug.name}"

    def plan_line(self, point: Point) -> tuple[str, str]:
        debug = point.config.debug
        assert debug is not None
        said = [f"{debug.steps} steps in place of budget={debug.of_budget:g}"]
        said += [f"on the first {debug.windows} windows of the text"] if debug.windows else []
        said += [f"measured after {debug.profile_after}"] if debug.profile_after is not None else []
        return "Debugging, and no result", f"{debug.name}: {', '.join(said)}"

    def training(self, run: BuiltRun, columns: Mapping[str, Any]) -> TrainingPart | None:
        if not self.debug.anomaly and self.debug.profile_after is None:
            return None
        return Watched(self.debug, run.point)


class Watched(TrainingPart):
    """Turns on what the steps are watched by, and off again after the last."""

    state_name = "debugging"

    def __init__(self, debug: Debug, point: Point) -> None:
        super().__init__()
        self._debug, self._folder = debug, point.run_dir
        self._cuda = point.device.accelerator == "cuda"
        self._profile: profile | None = None

    def before_step(self, step: int) -> None:
        torch.autograd.set_detect_anomaly(self._debug.anomaly)

    def after_backward(self) -> None:
        torch.autograd.set_detect_anomaly(False)

    def at_step(self, step: int, begun: Callable[[], object]) -> None:
        if step == self._debug.profile_after:
            kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._cuda else [])]
            self._profile = profile(activities=kinds)
            self._profile.__enter__()

    def end(self) -> None:
        if self._profile is None:
            return
        self._profile.__exit__(None, None, None)
        by = "self_cuda_time_total" if self._cuda else "self_cpu_time_total"
        table = self._profile.key_averages().table(sort_by=by, row_limit=_ROWS)
        path: Path = self._folder / PROFILE_NAME
        write_text_atomically(path, table)
        print(f"{table}\nprofile: {path}", file=sys.stderr)
