"""A point of a sweep: its config read, its model counted, its plan made. Computes nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from experiments.budget.costs import Cost, FFNConfig, Term
from experiments.budget.memory import plan_memory
from experiments.budget.plan import OffBudgetError, Plan, peak_lr, plan_steps
from experiments.config.schema import Optim, RunConfig, read_run_config
from experiments.data.packed import PackedText
from experiments.data.prepare import check_data, data_identity, stages_of, train_folder
from experiments.data.stream import DomainStream
from experiments.identity import mixed_sequences, run_id
from experiments.init.completion import completed
from experiments.init.freeze import freeze
from experiments.init.place import placed, trained_blocks
from experiments.kernels.select import check_kernel
from experiments.models.parametrization import base_of, base_shapes
from experiments.models.roles import check_declared, declared_roles
from experiments.models.transformer import Transformer, TransformerConfig
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

    @property
    def run_dir(self) -> Path:
        """results/<sweep>/<run_id>."""
        return Path(self.config.paths.results).expanduser() / self.config.sweep / self.run_id

    @property
    def cache(self) -> Path:
        """The data cache."""
        return Path(self.config.paths.cache).expanduser()

    def describe(self) -> str:
        """The point in a few words, for progress lines."""
        experts = "" if self.config.n_experts is None else f" N={self.config.n_experts}"
        return (
            f"{self.config.model_name}{experts} size={self.config.size} "
            f"budget={self.config.budget:g} seed={self.config.seed}{self.setting}"
        )


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
    _check_roles(config, transformer)
    _check_batch(transformer, ranks.n_sequences * config.data.seq_len)
    device = resolve_device(config.trainer.accelerator, config.trainer.precision)
    check_tables(config, device, ranks)
    check_continual(config)
    return Draft(raw=raw, config=config, device=device, ranks=ranks, transformer=transformer)


def _check_roles(config: RunConfig, transformer: TransformerConfig) -> None:
    """Raises ValueError if a matrix has no role, and a setting needs it."""
    if transformer.base is not None:
        base_shapes(transformer)
    if config.optim.matrices == "muon":
        check_declared(_shapes(transformer), "optim.matrices=muon")


def _shapes(transformer: TransformerConfig) -> Transformer:
    with torch.device("meta"):
        return transformer.build()


def _n_of_muon(config: RunConfig, transformer: TransformerConfig) -> int:
    """The trained parameters that have one moment."""
    if config.optim.matrices != "muon":
        return 0
    model = _shapes(transformer)
    freeze(model)
    roles = declared_roles(model)
    matrices = ((roles.get(name), p) for name, p in model.named_parameters() if p.requires_grad)
    return sum(p.numel() for role, p in matrices if role is not None and role.is_muons)


def plan_point(draft: Draft) -> Point:
    """Raises OffBudgetError, a ValueError, if whole steps miss the budget by more than 1 %."""
    config, ranks = draft.config, draft.ranks
    return Point(
        raw=draft.raw,
        config=config,
        device=draft.device,
        ranks=ranks,
        run_id=_run_id(draft.raw, config, ranks, draft.transformer.ffns),
        transformer=draft.transformer,
        plan=_plan(config, draft.transformer, ranks),
    )


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
    raw: Mapping[str, Any], config: RunConfig, ranks: Ranks, ffns: Sequence[FFNConfig]
) -> str:
    return run_id(raw, data_identity(config.data), mixed_sequences(ranks, ffns))


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


def model_cost(config: RunConfig, transformer: TransformerConfig) -> Cost:
    """The model's, and of distillation a forward pass of what it was at the start."""
    cost = transformer.cost()
    if config.continual is None or not config.continual.distil:
        return cost
    reference = Term(name="reference", flops=cost.forward_flops, passes=1, seen_by_torch=False)
    return Cost((*cost.terms, reference))


def _blocks_kept(transformer: TransformerConfig) -> int:
    """The blocks whose activations a backward pass needs: from the first that is trained."""
    trained = transformer.trained_blocks or (0,)
    return len(transformer.ffns) - min(trained)


def peak_rate(draft: Draft) -> float:
    """The peak learning rate of the backbone; of a base's parametrization, at the base."""
    return _peak_rate(draft.config.optim, draft.transformer)


def _peak_rate(optim: Optim, transformer: TransformerConfig) -> float:
    if transformer.base is not None:
        return optim.lr
    return peak_lr(optim.lr, optim.lr_d_model, optim.lr_width_exponent, transformer.d_model)


def _stage_steps(name: str, budget: float, flops_per_token: float, batch_tokens: int) -> int:
    try:
        return plan_steps(budget, flops_per_token, batch_tokens)
    except OffBudgetError as error:
        raise OffBudgetError(f"the share of stage {name}: {error}", error.short) from None


def _plan(config: RunConfig, transformer: TransformerConfig, ranks: Ranks) -> Plan:
    cost, d_model = model_cost(config, transformer), transformer.d_model
    optim, batch_tokens = config.optim, ranks.batch_size * config.data.seq_len
    stages, continual = stages_of(config.data), config.continual
    stage_steps = tuple(
        _stage_steps(name, share * config.budget, cost.training_flops, batch_tokens)
        for name, share in stages.items()
    )
    n_steps = sum(stage_steps) or plan_steps(config.budget, cost.training_flops, batch_tokens)
    folder = train_folder(config.data, Path(config.paths.cache).expanduser())
    epochs = None
    if folder.exists() and not config.data.streaming and not stages:
        epochs = n_steps * batch_tokens / PackedText(folder).n_tokens
    return Plan(
        cost=cost,
        batch_tokens=batch_tokens,
        n_steps=n_steps,
        lr=_peak_rate(optim, transformer),
        memory=plan_memory(
            cost,
            d_model=d_model,
            n_layers=_blocks_kept(transformer),
            vocab_size=transformer.vocab_size,
            micro_tokens=ranks.n_sequences * config.data.seq_len,
            n_micro=ranks.n_micro,
            table_gradient=optim.table_gradient,
            table_state=optim.table_state,
            table_dtype=getattr(config.model, "table_dtype", "float32"),
            n_models=2 if continual is not None and (continual.distil or continual.l2) else 1,
            n_one_moment=_n_of_muon(config, transformer),
        ),
        epochs=epochs,
        stage_steps=stage_steps,
    )
