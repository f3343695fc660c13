"""A point of a sweep, and the parts that its run has beside training a model from random weights.

A part is one file: it says what it refuses, what it costs, its line in the plan and its columns in
the record, what it does before the first step and in each one. What trains a run loops over its
parts and knows none by name. README.md beside it has a part from its file to its record.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from experiments.budget.costs import Cost
from experiments.budget.plan import Plan
from experiments.config.schema import RunConfig
from experiments.data.packed import PackedText
from experiments.data.prepare import PreparedData, training_batches
from experiments.kernels.products import measured_peak_flops
from experiments.models.transformer import Transformer, TransformerConfig
from experiments.points.training_part import TrainingPart
from experiments.records.record import RunRecord
from experiments.sweep import point as swept
from experiments.sweep.point import Branch, Handling, Needs
from experiments.system.agreement import Look, look_at
from experiments.system.device import Device, find_device
from experiments.system.distributed import Ranks

_OTHER_ORDER = 1  # added to a run's seed: batches in another order than training's
Scores = dict[str, dict[str, Any]]  # set -> loss, bits_per_byte, n_tokens ...


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A point that is read and checked but for its steps."""

    raw: Mapping[str, Any]
    config: RunConfig
    ranks: Ranks
    transformer: TransformerConfig
    parts: "tuple[RunPart, ...]"

    @cached_property
    def cost(self) -> Cost:
        """Model's, and what the parts compute beside it."""
        cost = self.transformer.cost()
        for part in self.parts:
            cost = part.cost(cost)
        return cost

    @cached_property
    def device(self) -> Device:
        """Device that the config is planned for. Raises as find_device does."""
        return find_device(self.config)

    @property
    def stages(self) -> Mapping[str, float]:
        """Stages of the training, in order, and their shares of the budget; {} of one."""
        return next((stages for part in self.parts if (stages := part.stages())), {})


@dataclass(frozen=True, kw_only=True)
class Point(swept.Point):
    """A language model's run to be.

    device and ranks are what the config comes to in this process: one that hands a point on to
    another process hands on `raw`. device: the cluster's card, if there is a cluster to plan for
    (planning.here).
    """

    config: RunConfig
    device: Device
    ranks: Ranks
    transformer: TransformerConfig
    plan: Plan
    parts: "tuple[RunPart, ...]"

    @property
    def app(self) -> str:
        return "experiments.language.app:APP"

    @property
    def handling(self) -> Handling:
        config, trainer = self.config, self.config.trainer
        return Handling(
            sweep=config.sweep,
            results=str(config.paths.results),
            retry=config.retry,
            dry_run=config.dry_run,
            max_retries=trainer.max_retries,
            log_every_seconds=trainer.log_every_seconds,
        )

    @property
    def needs(self) -> Needs:
        memory, card = self.plan.memory, self.device.card
        return Needs(
            devices=self.ranks.devices,
            num_nodes=self.ranks.num_nodes,
            gpu=self.device.accelerator == "cuda",
            takes_gpu=self.config.trainer.accelerator != "cpu",
            n_bytes=memory.total,
            checkpoint_bytes=memory.weights + memory.moments,
            cards_per_node=None if card is None else card.cards_per_node,
        )

    @property
    def cache(self) -> Path:
        """Data cache."""
        return Path(self.config.paths.cache).expanduser()

    @property
    def draft(self) -> Draft:
        """Point without its steps."""
        return Draft(
            raw=self.raw,
            config=self.config,
            ranks=self.ranks,
            transformer=self.transformer,
            parts=self.parts,
        )

    @property
    def name(self) -> str:
        """describe() without setting and trunk."""
        experts = "" if self.config.n_experts is None else f" N={self.config.n_experts}"
        budget = "trunk" if self.is_trunk else f"budget={self.config.budget:g}"
        return (
            f"{self.config.model_name}{experts} size={self.config.size} "
            f"{budget} seed={self.config.seed}"
        )

    def peak_flops(self) -> float:
        """FLOP/s of dense products on one of its devices: of a card's data sheet, or measured."""
        sheet, device = self.device.sheet_flops, self.device
        bf16 = device.precision == "bf16-mixed"
        return sheet or measured_peak_flops(device.accelerator, bf16=bf16)

    @property
    def is_trunk(self) -> bool:
        """Whether its steps are there for branches to start from; it is no result itself."""
        return not all(part.is_result for part in self.parts)

    @property
    def scored_by_all(self) -> bool:
        """Whether all its processes have to score the model together."""
        return any(part.scored_by_all for part in self.parts)

    @property
    def table_ranks(self) -> int:
        """How many processes have the columns of each table between them; 1: each has them all."""
        return max((part.table_ranks for part in self.parts), default=1)

    def look_at(self, checkpoint: Path) -> Look:
        """A checkpoint as all its processes find it, who all come here. Raises RuntimeError."""
        return look_at(checkpoint, self.ranks, self.table_ranks)

    @property
    def stages(self) -> Mapping[str, int]:
        """Stages of the training, in order, and their steps; {} of one."""
        names = next((stages for part in self.parts if (stages := part.stages())), {})
        return dict(zip(names, self.plan.stage_steps, strict=True))

    @property
    def n_steps(self) -> int:
        return self.plan.n_steps

    @property
    def own_flops(self) -> float:
        """Planned training FLOPs of its own steps."""
        return self.plan.count_flops(self.plan.n_steps - self.first_step)

    @property
    def own_work(self) -> float:
        return self.own_flops

    @property
    def work_before(self) -> float:
        return self.plan.count_flops(self.first_step)

    @property
    def planned(self) -> Mapping[str, float]:
        return {"n_steps": self.plan.n_steps, "n_params": self.plan.cost.n_params}


class Scorer(Protocol):
    """Scores a run's model as it is when asked."""

    def all(self) -> Scores:
        """On the run's named sets and its validation split, which is `validation`."""
        ...

    def of_domains(self, begun: Callable[[], object]) -> Scores:
        """On the validation splits of a stream's domains; begun() is called at each."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class BuiltRun:
    """A point whose model and data are there, before its first step.

    resumed: the checkpoint that it goes on from, which is loaded later; None: from the start.
    sets: the tokens of what is scored at the end. scorer: None in a process that scores nothing, as
    all ranks but the first.
    """

    point: Point
    model: Transformer
    prepared: PreparedData
    sets: Mapping[str, PackedText]
    scorer: Scorer | None
    resumed: Path | None

    def batches(self) -> Iterator[Tensor]:
        """(batch, seq) tokens of the training text, in another order than training's; of a
        stream, of its base.
        """
        config = self.point.config
        batches = training_batches(
            config.data,
            self.prepared,
            self.point.cache,
            batch_size=config.ladder.batch_size,
            seed=config.seed + _OTHER_ORDER,
        )
        for windows in batches:
            yield torch.from_numpy(windows.tokens[:, :-1].astype("int64"))

    def model_at_start(self) -> Transformer:
        """A copy of the model as it is before its first step, in a run that goes on too. To be
        called once all parts have started.
        """
        model = copy.deepcopy(self.model)
        if self.resumed is not None:
            for part in self.point.parts:
                part.start(replace(self, model=model, scorer=None))
        return model


class RunPart:
    """Something that a run does beside training a model from random weights.

    A file of points/parts/ has one, which `of` makes of keys of the config. One of yours is a
    frozen dataclass that a yaml of conf/parts names by its `_target_`: parts=[NAME] chooses it.
    Each method has a default that does nothing. A part has no state: it is asked in several
    processes. Parts act in the order of `order`, and then of their names.
    """

    order: ClassVar[int] = 50
    is_result: ClassVar[bool] = True  # False: the run's end is no result, and isn't scored
    compiles: ClassVar[bool] = True  # False: trainer.compile=auto is off
    scored_by_all: ClassVar[bool] = False  # True: no process can score the model alone
    by_columns: ClassVar[bool] = False  # True: it does with tables in columns of each process

    @property
    def table_ranks(self) -> int:
        """Processes that have the columns of each table between them."""
        return 1

    # From the config to the plan

    @classmethod
    def complete(cls, raw: Mapping[str, Any]) -> Mapping[str, Any]:
        """Config with what follows from other parts of it; may raise ValueError."""
        return raw

    @classmethod
    def of(cls, config: RunConfig) -> "RunPart | None":
        """Part that a config's own keys ask for; None: none."""
        return None

    def shape(self, config: RunConfig, transformer: TransformerConfig) -> TransformerConfig:
        """Model as the part needs it. Raises ValueError for one that it can't have."""
        return transformer

    def refuse(self, draft: Draft) -> None:
        """Raises ValueError for a run that it can't be a part of."""

    def identity(self, identity: dict[str, Any]) -> dict[str, Any]:
        """Settings that the run id is a hash of, without those that can't change the result."""
        return identity

    def cost(self, cost: Cost) -> Cost:
        """Cost of a token, with what the part computes."""
        return cost

    def priced(self, draft: Draft) -> Draft:
        """Draft with the budget that it is to have, before it becomes steps."""
        return draft

    @property
    def n_models(self) -> int:
        """Further copies of the model in memory."""
        return 0

    def stages(self) -> Mapping[str, float]:
        """Stages that it cuts the training into, with their shares of the budget."""
        return {}

    def plan(self, draft: Draft, plan: Plan) -> tuple[Draft, Plan]:
        """Both, with what it sets in them. Raises ValueError for a plan that it can't follow."""
        return draft, plan

    def branch(self, draft: Draft, plan: Plan) -> Branch | None:
        """Where the run leaves another one, whose steps it need not take."""
        return None

    def note(self, point: Point) -> str:
        """A word on the point's line in the plan."""
        return ""

    def plan_line(self, point: Point) -> tuple[str, str] | None:
        """A heading, and the point's line under it, at the end of the plan."""
        return None

    # From the first step to the record

    def checkpoint(self, point: Point) -> Path | None:
        """Where a run without a checkpoint of its own goes on from. Raises Diverged, RuntimeError
        and Interrupted if what it waits for failed or has not come so far.
        """
        return None

    def batches(self) -> Mapping[str, Any]:
        """Further arguments of data.prepare.training_batches."""
        return {}

    def building(self) -> AbstractContextManager[object]:
        """Context that the model is made in, of the run that trains it."""
        return nullcontext()

    def start(self, run: BuiltRun) -> dict[str, Any]:
        """Makes the model what it is before its first step, in place. Returns columns of the
        record: one of RunRecord's fields, or any other, which stands under `parts`.
        """
        return {}

    def training(self, run: BuiltRun, columns: Mapping[str, Any]) -> TrainingPart | None:
        """Its work in the steps. columns: those of all parts' starts, as they were made."""
        return None

    def columns(self, point: Point) -> dict[str, Any]:
        """Further columns of the record, once it is known where the run begins."""
        return {}

    def ended(self, point: Point, record: RunRecord) -> None:
        """Called once the record is written."""
