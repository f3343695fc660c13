"""A point of a sweep: its config read, its model counted, its plan made. Computes nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from experiments.branches import (
    TRUNK,
    Branch,
    check_branch,
    start_step,
    trunk_raw,
)
from experiments.budget.costs import FFNConfig
from experiments.budget.plan import Plan, peak_lr, plan_steps
from experiments.config.effects import Ineffective, Run, ineffective
from experiments.config.schema import RunConfig, read_run_config
from experiments.data.prepare import check_data, data_identity, stages_of
from experiments.data.stream import DomainStream
from experiments.identity import mixed_sequences, run_id
from experiments.init.completion import completed
from experiments.init.place import placed, trained_blocks
from experiments.kernels.select import check_kernel
from experiments.models.parametrization import base_of
from experiments.models.transformer import TransformerConfig
from experiments.run_plan import (
    check_roles,
    make_plan,
    model_cost,
    planned_by_law,
    trained_kinds,
)
from experiments.system.credentials import refuse
from experiments.system.distributed import Ranks, share_batch
from experiments.system.environment import Device, resolve_device


@dataclass(frozen=True, kw_only=True)
class Point:
    """One run to be. `raw` is the resolved config as Hydra composed it.

    device and ranks are what the config comes to in this process: one that hands a point on to
    another process hands on `raw`.
    """

    raw: Mapping[str, Any]
    config: RunConfig
    device: Device
    ranks: Ranks
    run_id: str
    transformer: TransformerConfig
    plan: Plan
    setting: str = ""  # what tells it from other points of its sweep, if describe() would not
    branch: Branch | None = None  # where it leaves a trunk

    @property
    def run_dir(self) -> Path:
        """results/<sweep>/<run_id>."""
        return Path(self.config.paths.results).expanduser() / self.config.sweep / self.run_id

    @property
    def cache(self) -> Path:
        """The data cache."""
        return Path(self.config.paths.cache).expanduser()

    @property
    def name(self) -> str:
        """describe() without setting and trunk."""
        experts = "" if self.config.n_experts is None else f" N={self.config.n_experts}"
        budget = "trunk" if self.is_trunk else f"budget={self.config.budget:g}"
        return (
            f"{self.config.model_name}{experts} size={self.config.size} "
            f"{budget} seed={self.config.seed}"
        )

    def describe(self) -> str:
        """The point in a few words, for progress lines."""
        trunk = "" if self.branch is None else f" from trunk {self.branch.trunk_id}"
        return f"{self.name}{self.setting}{trunk}"

    @cached_property
    def without_effect(self) -> tuple[Ineffective, ...]:
        """The settings that can't change this run."""
        return _without_effect(self.config, self.transformer)

    @cached_property
    def effective_id(self) -> str:
        """run_id without these settings: points that share it are one run."""
        names = [setting.name for setting in self.without_effect]
        return _run_id(self.raw, self.config, self.ranks, self.transformer.ffns, names)

    @property
    def is_trunk(self) -> bool:
        """Whether its steps are there for branches to start from; it is no result itself."""
        return self.config.optim.schedule == TRUNK

    @property
    def first_step(self) -> int:
        """The steps that a trunk takes for it."""
        return 0 if self.branch is None else self.branch.n_steps

    @property
    def own_flops(self) -> float:
        """The planned training FLOPs of its own steps."""
        return self.plan.flops_of(self.plan.n_steps - self.first_step)


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A point that is read and checked but for its steps."""

    raw: Mapping[str, Any]
    config: RunConfig
    device: Device
    ranks: Ranks
    transformer: TransformerConfig

    def fits(self, batch_size: int) -> bool:
        """Whether steps of that many sequences meet the budget, and layers, ranks and
        micro-batches can share them.
        """
        n_ranks, micro = self.ranks.world_size, self.config.trainer.micro_batch_size
        if batch_size % (n_ranks * (micro or 1)):
            return False
        seq_len = self.config.data.seq_len
        try:
            for share in stages_of(self.config.data).values() or (1.0,):
                budget = share * self.config.budget
                plan_steps(budget, self.flops_per_token, batch_size * seq_len)
            _check_batch(self.transformer, (micro or batch_size // n_ranks) * seq_len)
        except ValueError:
            return False
        return True

    @cached_property
    def flops_per_token(self) -> float:
        """Training FLOPs."""
        return model_cost(self.config, self.transformer).training_flops


def make_point(raw: Mapping[str, Any]) -> Point:
    """Reads and plans one point; writes nothing. Raises ValueError for what would fail later."""
    return plan_point(read_point(raw))


def read_point(raw: Mapping[str, Any]) -> Draft:
    """Raises ValueError for all that would fail later, but for steps that miss the budget."""
    refuse("the config", dict(raw))
    raw = completed(raw)
    config = read_run_config(raw)
    check_data(config.data)
    ranks = share_batch(config)
    ladder = config.ladder
    init = config.init
    transformer = TransformerConfig(
        d_model=config.d_model,
        d_head=ladder.d_head,
        vocab_size=config.data.tokenizer.n_entries(),
        seq_len=config.data.seq_len,
        tie_head=ladder.tie_head,
        ffns=placed(config),
        rope_base=config.trunk.rope_base,
        norm_eps=config.trunk.norm_eps,
        n_kv_heads=config.trunk.n_kv_heads,
        trained_blocks=trained_blocks(config),
        tables_alone=init is not None and init.train == "tables",
        lora_rank=init.lora_rank if init is not None and init.train == "lora" else None,
        base=base_of(config),
    )
    check_roles(config, transformer)
    _check_batch(transformer, ranks.n_sequences * config.data.seq_len)
    device = resolve_device(config.trainer.accelerator, config.trainer.precision)
    check_tables(config, device, ranks)
    check_continual(config)
    check_branch(config)
    return Draft(raw=raw, config=config, device=device, ranks=ranks, transformer=transformer)


def _without_effect(
    config: RunConfig, transformer: TransformerConfig, *, given_alone: bool = False
) -> tuple[Ineffective, ...]:
    run = Run(config=config, trained=partial(trained_kinds, transformer))
    return tuple(ineffective(run, given_alone=given_alone))


def check_effects(draft: Draft) -> None:
    """Raises ValueError for a setting that was given and can't change the run. Of a config that
    somebody composes now; that of a record or a manifest is as it was.
    """
    given = _without_effect(draft.config, draft.transformer, given_alone=True)
    if given:
        raise ValueError(given[0].describe())


def plan_point(draft: Draft) -> Point:
    """Raises OffBudgetError, a ValueError, if whole steps miss the budget by more than 1 %, and
    ValueError for a law of the learning rate that does not say this point's, and for a
    schedule that its steps are too few for.
    """
    config, ranks = draft.config, draft.ranks
    plan = make_plan(config, draft.transformer, ranks)
    if config.optim.lr == "law":
        rate = planned_by_law(config, draft.transformer, plan)
        point = plan_point(_at_rate(draft, rate.lr))
        return replace(point, plan=replace(point.plan, lr_from=rate.describe()))
    return Point(
        raw=draft.raw,
        config=config,
        device=draft.device,
        ranks=ranks,
        run_id=_run_id(draft.raw, config, ranks, draft.transformer.ffns),
        transformer=draft.transformer,
        plan=plan,
        branch=_branch(draft, plan),
    )


def _at_rate(draft: Draft, lr: float) -> Draft:
    """The draft with a number in place of its law, to 4 digits: a run's identity has them."""
    optim = draft.config.optim
    scale = peak_lr(1.0, optim.lr_d_model, optim.lr_width_exponent, draft.transformer.d_model)
    base = float(f"{lr / scale:.4g}")
    return replace(
        draft,
        raw={**draft.raw, "optim": {**draft.raw["optim"], "lr": base}},
        config=replace(draft.config, optim=replace(optim, lr=base)),
    )


def _branch(draft: Draft, plan: Plan) -> Branch | None:
    """Raises ValueError for a path that is not that of the trunk that the settings name."""
    config, place = draft.config, draft.config.optim.branch_from
    if place is None:
        return None
    raw = trunk_raw(draft.raw, config.budget)
    trunk_id = _run_id(raw, config, draft.ranks, draft.transformer.ffns)
    folder = Path(config.paths.results).expanduser() / config.sweep / trunk_id
    if place != TRUNK:
        folder = Path(place).expanduser()
        if folder.name != trunk_id:
            raise ValueError(
                f"optim.branch_from={place} is not the trunk of this point, whose run id is "
                f"{trunk_id}: a trunk has all settings of its branch but budget and decay; set "
                "optim.branch_from=trunk to train it"
            )
    start = start_step(config.optim, plan.n_steps, plan.batch_tokens)
    return Branch(trunk_id=trunk_id, folder=folder, n_steps=start)


def _check_batch(transformer: TransformerConfig, n_tokens: int) -> None:
    """Raises ValueError if a layer can't share out the tokens of a forward pass."""
    for ffn in transformer.ffns:
        check_batch = getattr(ffn, "check_batch", None)
        if check_batch is not None:
            check_batch(n_tokens)


def run_id_of(raw: Mapping[str, Any]) -> str:
    """The run id of a resolved config, without planning it. Raises ValueError for a bad one."""
    raw = completed(raw)
    config = read_run_config(raw)
    return _run_id(raw, config, share_batch(config), placed(config))


def _run_id(
    raw: Mapping[str, Any],
    config: RunConfig,
    ranks: Ranks,
    ffns: Sequence[FFNConfig],
    leave_out: Sequence[str] = (),
) -> str:
    return run_id(raw, data_identity(config.data), mixed_sequences(ranks, ffns), leave_out)


def check_tables(config: RunConfig, device: Device, ranks: Ranks) -> None:
    """Raises ValueError if expert tables can't be read or stepped the way that is asked for."""
    optim, how = config.optim, config.optim.table_gradient
    if config.kernel in ("cpp", "triton"):
        check_kernel(config.kernel, device.accelerator)
    if how == "dense":
        if optim.table_state != "float32":
            raise ValueError(
                f"optim.table_state={optim.table_state} with optim.table_gradient=dense, whose "
                "moments have the table's type; set optim.table_gradient=rows or fused"
            )
        if getattr(config.model, "table_dtype", "float32") != "float32":
            raise ValueError(
                "model.table_dtype=bfloat16 with optim.table_gradient=dense: torch's AdamW would "
                "round small updates away; rows and fused round stochastically: set one of them"
            )
        return
    if config.kernel == "reference":
        raise ValueError(
            f"kernel=reference has dense gradients only, not optim.table_gradient={how}; use "
            "kernel=torch or auto"
        )
    if ranks.world_size > 1:
        raise ValueError(
            f"optim.table_gradient={how} with {ranks.world_size} ranks: DDP averages gradients "
            "in dense buckets, and these are sparse or never made; set optim.table_gradient=dense"
        )
    if how == "fused":
        _check_fused(config, ranks)


def check_continual(config: RunConfig) -> None:
    """Raises ValueError for ways to keep what a model knew that this run can't take."""
    continual, how = config.continual, config.optim.table_gradient
    if continual is None:
        return
    if continual.replay and not isinstance(config.data.corpus, DomainStream):
        raise ValueError(
            f"continual.replay={continual.replay:g} is of a stream's base corpus; set data=stream"
        )
    by_rows = how == "rows" and _has_tables(config) and _trains_tables(config)
    if continual.top_rows is not None and not by_rows:
        train = "all" if config.init is None else config.init.train
        raise ValueError(
            f"continual.top_rows={continual.top_rows} chooses among the rows that a step changes: "
            "it takes model=peer or pkm whose tables are trained by optim.table_gradient=rows, and "
            f"this is {config.model_name} with optim.table_gradient={how} and init.train={train}"
        )
    if continual.top_rows is not None and continual.top_rows >= (config.n_experts or 0):
        raise ValueError(
            f"continual.top_rows={continual.top_rows} of the {config.n_experts} rows of a table "
            "are all of them; set it lower, or to null"
        )
    if (continual.distil or continual.l2) and config.init is None:
        raise ValueError(
            "continual.distil and continual.l2 are towards the weights at the start, and init=none "
            "has none; set init=run, hf or smollm2"
        )
    if continual.l2 and how != "dense" and _has_tables(config) and _trains_tables(config):
        raise ValueError(
            f"continual.l2={continual.l2:g} with optim.table_gradient={how}: it draws all rows, "
            "and these ways step the retrieved ones; set optim.table_gradient=dense"
        )


def _has_tables(config: RunConfig) -> bool:
    return any(term.n_tables for term in config.model.cost(config.d_model).terms)


def _trains_tables(config: RunConfig) -> bool:
    return config.init is None or config.init.train != "lora"


def _check_fused(config: RunConfig, ranks: Ranks) -> None:
    if config.optim.grad_clip is not None:
        raise ValueError(
            f"optim.table_gradient=fused with optim.grad_clip={config.optim.grad_clip}: tables "
            "have stepped before the norm of all gradients is known; set optim.grad_clip=null or "
            "optim.table_gradient=rows"
        )
    if ranks.n_micro > 1:
        raise ValueError(
            f"optim.table_gradient=fused with trainer.micro_batch_size="
            f"{config.trainer.micro_batch_size}: tables would step once a micro-batch; set it to "
            "null or optim.table_gradient=rows"
        )
