"""From a config to a point of a sweep: read, checked, counted, planned. Computes nothing else."""

import functools
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from experiments.budget.costs import find_name
from experiments.budget.plan import OffBudgetError, Plan, peak_lr, plan_steps
from experiments.config import former_trunk
from experiments.config.constraints import shown
from experiments.config.effects import Ineffective, Run, ineffective
from experiments.config.nodes import make_node
from experiments.config.once import once
from experiments.config.optim import Optim
from experiments.config.run_config import read_run_config
from experiments.config.schema import OF_TRUNK, RunConfig
from experiments.data.packed import PackedText
from experiments.data.prepare import check_data, train_folder
from experiments.kernels.ops import Execution
from experiments.kernels.select import check_kernel
from experiments.models.blocks import chosen_blocks
from experiments.models.fused import eager_parts
from experiments.models.roles import declared_roles
from experiments.models.tokens import check_vocabulary
from experiments.models.transformer import TransformerConfig
from experiments.optim.groups import check_roles, optimizers, trained_parameters
from experiments.optim.schedule import check_steps
from experiments.points.identity import compute_id
from experiments.points.layers import drawn
from experiments.points.memory import estimate_memory, list_shapes, trained_shapes
from experiments.points.parts import completed, find_parts
from experiments.points.point import Draft, Point
from experiments.points.stopping import check_stopping
from experiments.system.credentials import refuse_credentials
from experiments.system.device import check_card, device_here
from experiments.system.distributed import Ranks, share_batch


def make_point(raw: Mapping[str, Any]) -> Point:
    """Reads and plans one point; writes nothing. Raises ValueError for what would fail later."""
    return plan_point(read_point(raw))


def read_point(raw: Mapping[str, Any]) -> Draft:
    """Raises ValueError for all that would fail later, but for steps that miss the budget."""
    draft = read_draft(raw)
    config, ranks, transformer = draft.config, draft.ranks, draft.transformer
    _check_batch(transformer, ranks.n_sequences * config.data.seq_len)
    check_vocabulary(transformer.ffns, transformer.vocab_size, exactly=True)
    with _named_by_settings(config):
        transformer.cost()
        shapes = trained_shapes(transformer)
    check_roles(shapes, config.optim)
    check_tables(config, ranks)
    _check_shared(config, transformer)
    check_stopping(config, ranks)
    if config.trainer.strategy == "fsdp":  # which Lightning has (docs/ranks.md)
        raise ValueError(
            "trainer.strategy=fsdp is not supported: scores, parts of a run and the kernels of "
            "tables take whole weights, and FSDP leaves a process shards of them; set "
            "trainer.table_ranks=all, which shares what is large, the tables, and "
            "trainer.recompute=true for activations"
        )
    accelerator = draft.device.accelerator
    check_kernel(config.kernel, accelerator)
    for tracker in (config.logger.tools or {}).values():
        tracker.check()
    if config.trainer.trunk == "fused":
        _check_trunk(draft, accelerator)
    for part in draft.parts:
        part.refuse(draft)
    return draft


@contextmanager
def _named_by_settings(config: RunConfig) -> Iterator[None]:
    """What a layer or norm refuses at this width, as a ValueError that names its settings."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        parts: dict[str, Any] = {"model": config.model, "trunk.norm": config.trunk.norm}
        for where, part in parts.items():
            if _refusal(part, config.d_model) != str(error):
                continue
            own = [field.name for field in fields(part)]
            if str(error).partition("=")[0] in own:
                raise ValueError(f"{where}.{error}") from None
            given = ", ".join(f"{where}.{name}={shown(getattr(part, name))}" for name in own)
            raise ValueError(
                f"{find_name(part)} can't be built at d_model={config.d_model}: {error}; "
                f"change {given or where}"
            ) from None
        raise


def _refusal(part: Any, d_model: int) -> str:
    """What it says at this width, when it is counted and built."""
    try:
        with torch.device("meta"):
            getattr(part, "cost", part.build)(d_model)
            part.build(d_model)
    except (ValueError, RuntimeError) as error:
        return str(error)
    return ""


def _check_trunk(draft: Draft, accelerator: str) -> None:
    """Raises ValueError if the trunk can't be fused as a whole."""
    config, transformer, why = draft.config, draft.transformer, None
    if accelerator != "cpu":
        why = f"it is for CPUs, and the run is for {accelerator}"
    elif config.trainer.compile is True:
        why = "trainer.compile=true makes the trunk"
    elif draft.ranks.world_size > 1 and "all_processes" in {
        getattr(ffn, "mixes", None) for ffn in transformer.ffns
    }:
        why = "batch norm of queries is over the tokens of all ranks"
    else:
        model = list_shapes(transformer)
        model.set_execution(Execution(kernel=config.kernel))
        eager = eager_parts(model)
        why = next((f"{part} can't be: {reason}" for part, reason in eager.items()), None)
    if why is not None:
        raise ValueError(f"trainer.trunk=fused: {why}; use auto or eager")


def read_draft(raw: Mapping[str, Any]) -> Draft:
    """Raises ValueError for a bad config, wherever it is to run, if it is."""
    for key, value in raw.items():
        group = {key: value}
        once("credentials", group, partial(refuse_credentials, "the config", group))
    raw = completed(raw)
    config = read_run_config(raw)
    check_data(config.data, config.eval)
    ranks, parts = share_batch(config), find_parts(config)
    trunk, ladder = config.trunk, config.ladder
    transformer = TransformerConfig(
        d_model=config.d_model,
        d_head=ladder.d_head,
        vocab_size=config.data.tokenizer.n_entries(),
        seq_len=config.data.seq_len,
        tie_head=ladder.tie_head,
        ffns=drawn(config),
        **{part: getattr(trunk, part) for part in OF_TRUNK},
    )
    for part in parts:
        transformer = part.shape(config, transformer)
    return Draft(raw=raw, config=config, ranks=ranks, transformer=transformer, parts=parts)


def compute_run_id(raw: Mapping[str, Any]) -> str:
    """Run id of a resolved config, without planning it. Raises ValueError for a bad one."""
    draft = read_draft(raw)
    return compute_id(draft.raw, draft)


def plan_point(draft: Draft) -> Point:
    """Raises OffBudgetError, a ValueError, if whole steps miss the budget by more than 1 %, and
    ValueError for a plan that a part can't follow, or a schedule that its steps are too few for.
    """
    for part in draft.parts:
        draft = part.priced(draft)
    plan = make_plan(draft)
    for part in draft.parts:
        draft, plan = part.plan(draft, plan)
    branches = (part.branch(draft, plan) for part in draft.parts)
    return Point(
        raw=draft.raw,
        config=draft.config,
        device=draft.device,
        ranks=draft.ranks,
        run_id=compute_id(draft.raw, draft),
        transformer=draft.transformer,
        plan=plan,
        parts=draft.parts,
        branch=next((branch for branch in branches if branch is not None), None),
    )


def here(point: Point) -> Point:
    """Point on this machine's device, if it was planned for a cluster's card: for who is about
    to run it. Warns of another card; raises ValueError if there is none, or it has too little
    memory.
    """
    card = point.device.card
    if card is None:
        return point
    found = replace(point, device=device_here(point.config))
    precision = found.device.precision
    if precision != point.device.precision:
        memory = estimate_memory(point.draft, point.table_ranks, precision)
        found = replace(found, plan=replace(point.plan, memory=memory))
    check_card(card, found.device, found.plan.memory.total)
    return found


def fits(draft: Draft, batch_size: int) -> bool:
    """Whether steps of that many sequences meet the budget, and layers, ranks and micro-batches can
    share them.
    """
    config, micro = draft.config, draft.config.trainer.micro_batch_size
    if batch_size % (draft.ranks.world_size * (micro or 1)):
        return False
    seq_len, flops = config.data.seq_len, draft.cost.training_flops
    try:
        for share in draft.stages.values() or (1.0,):
            plan_steps(share * config.budget, flops, batch_size * seq_len)
        _check_batch(draft.transformer, (micro or batch_size // draft.ranks.world_size) * seq_len)
    except ValueError:
        return False
    return True


def without_effect(point: Point | Draft, *, given_alone: bool = False) -> tuple[Ineffective, ...]:
    """Settings that can't change the run, or of these the ones that somebody gave."""
    run = Run(config=point.config, trained=partial(trained_kinds, point.transformer))
    return tuple(ineffective(run, given_alone=given_alone))


def effective_id(point: Point) -> str:
    """run_id without the settings that can't change the run, and with one spelling of those that
    have several: points that share it are one run.
    """
    size, trunk = point.config.size, point.config.trunk
    blocks = chosen_blocks(trunk.ffn_blocks, size)
    attention = make_node(trunk.attention.explicit(point.transformer.n_heads))
    spelled = {"ffn_blocks": list(blocks), "attention": attention}
    raw = {**point.raw, "trunk": {**former_trunk.today(point.raw["trunk"]), **spelled}}
    without = {setting.name for setting in without_effect(point)}
    if len(blocks) == size and not trunk.beside:
        without.add("trunk.base_ffn")
    return compute_id(raw, point, without)


def check_effects(draft: Draft) -> None:
    """Raises ValueError for a setting that was given and can't change the run, and an optimizer
    that steps none of it. Of a config that somebody composes now; that of a record or a manifest is
    as it was.
    """
    given = without_effect(draft, given_alone=True)
    if given:
        raise ValueError(given[0].describe())
    (chosen, *others), optim = optimizers(draft.config.optim), draft.config.optim
    trained = trained_parameters(trained_shapes(draft.transformer), 1.0, optim)
    if type(chosen) not in map(type, others) and not any(map(chosen.takes, trained)):
        raise ValueError(
            f"{chosen.choice} has no effect on model={draft.config.model_name}, where it takes no "
            "parameter that is trained; leave it out"
        )


def _check_batch(transformer: TransformerConfig, n_tokens: int) -> None:
    """Raises ValueError if a layer can't share out the tokens of a forward pass."""
    for ffn in transformer.ffns:
        check_batch = getattr(ffn, "check_batch", None)
        if check_batch is not None:
            check_batch(n_tokens)


def check_tables(config: RunConfig, ranks: Ranks) -> None:
    """Raises ValueError if expert tables can't be read or stepped the way that is asked for."""
    optim, how = config.optim, config.optim.table_gradient
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
    if ranks.world_size > 1 and config.trainer.table_ranks in (None, 1):
        raise ValueError(
            f"optim.table_gradient={how} with {ranks.world_size} ranks: DDP averages gradients "
            "in dense buckets, and these are sparse or never made; set optim.table_gradient=dense, "
            "or trainer.table_ranks=all for tables in columns"
        )
    if how == "fused":
        _check_fused(config, ranks)


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


def _check_shared(config: RunConfig, transformer: TransformerConfig) -> None:
    """Raises ValueError if layers share parameters, and the run can't do with that."""
    terms = (term for ffn in transformer.ffns for term in ffn.cost(transformer.d_model).terms)
    shared = [term for term in terms if term.shared is not None]
    if not shared:
        return
    name = getattr(config.model, "shared_by_blocks", None)
    setting = "layers that share parameters" if name is None else f"model.{name}=true"
    if config.init is not None:
        other = "" if name is None else f", or model.{name}=false"
        raise ValueError(
            f"{setting} with weights to start from, which are given block by block; "
            f"set init=none{other}"
        )
    if config.optim.table_gradient == "fused" and any(term.n_tables for term in shared):
        raise ValueError(
            f"optim.table_gradient=fused with {setting}: the table would step once "
            "for each block that reads it; set optim.table_gradient=rows"
        )


def peak_rate(optim: Optim, transformer: TransformerConfig) -> float:
    """Peak learning rate of the backbone; of a base's parametrization, at the base. nan: a law
    says it.
    """
    lr = math.nan if optim.lr == "law" else optim.lr
    if transformer.base is not None:
        return lr
    return peak_lr(lr, optim.lr_d_model, optim.lr_width_exponent, transformer.d_model)


def make_plan(draft: Draft) -> Plan:
    """Raises OffBudgetError if whole steps miss the budget by more than 1 %, and ValueError for a
    schedule that they are too few for. The rate of a law is nan: its part says it.
    """
    config, ranks = draft.config, draft.ranks
    cost, optim = draft.cost, config.optim
    batch_tokens = ranks.batch_size * config.data.seq_len
    stage_steps: tuple[int, ...] = ()
    for name, share in draft.stages.items():
        try:
            n = plan_steps(share * config.budget, cost.training_flops, batch_tokens)
        except OffBudgetError as error:
            raise OffBudgetError(f"the share of stage {name}: {error}", error.short) from None
        stage_steps += (n,)
    n_steps = sum(stage_steps) or plan_steps(config.budget, cost.training_flops, batch_tokens)
    for n in stage_steps or (n_steps,):
        check_steps(optim, config.budget, n, batch_tokens)
    folder = train_folder(config.data, Path(config.paths.cache).expanduser())
    epochs = None
    if folder.exists() and not config.data.streaming and not stage_steps:
        epochs = n_steps * batch_tokens / PackedText(folder).n_tokens
    return Plan(
        cost=cost,
        batch_tokens=batch_tokens,
        n_steps=n_steps,
        lr=peak_rate(optim, draft.transformer),
        memory=estimate_memory(draft),
        epochs=epochs,
        stage_steps=stage_steps,
    )


@functools.lru_cache(maxsize=256)
def trained_kinds(transformer: TransformerConfig) -> frozenset[str]:
    """Kinds of parameters that are trained: table, key, backbone (matrices that decay) and map
    (of the backbone, and no rows that are looked up).
    """
    model = trained_shapes(transformer)
    roles, kinds = declared_roles(model), set[str]()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.dim() >= 2:
            role = roles.get(name)
            kinds |= {"backbone" if role is None else role.group}
            kinds |= {"map"} if role is not None and role.is_map else set()
    return frozenset(kinds)
