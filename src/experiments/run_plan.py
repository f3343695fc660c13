"""From a config and its model to the plan of the run: tokens, steps, learning rate and memory."""

import functools
import math
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from experiments.branches import check_steps
from experiments.budget.costs import FORWARD_PASSES, Cost, Term
from experiments.budget.memory import plan_memory
from experiments.budget.plan import OffBudgetError, Plan, peak_lr, plan_steps
from experiments.budget.rate_law import LawRate, rate_by_law
from experiments.config.optim import Optim
from experiments.config.schema import RunConfig
from experiments.data.packed import PackedText
from experiments.data.prepare import stages_of, train_folder
from experiments.init.freeze import freeze
from experiments.models.parametrization import base_shapes
from experiments.models.roles import check_declared, declared_roles
from experiments.models.transformer import Transformer, TransformerConfig
from experiments.system.distributed import Ranks


def model_cost(config: RunConfig, transformer: TransformerConfig) -> Cost:
    """The model's, and of distillation a forward pass of what it was at the start."""
    cost = transformer.cost()
    if config.continual is None or not config.continual.distil:
        return cost
    reference = Term(name="reference", flops=cost.forward_flops, seen_by_torch=False)
    return Cost((*cost.terms, reference.frozen(FORWARD_PASSES)))


def _blocks_kept(transformer: TransformerConfig) -> int:
    """The blocks whose activations a backward pass needs: from the first that is trained."""
    trained = transformer.trained_blocks or (0,)
    return len(transformer.ffns) - min(trained)


def check_roles(config: RunConfig, transformer: TransformerConfig) -> None:
    """Raises ValueError if a matrix has no role, and a setting needs it."""
    if transformer.base is not None:
        base_shapes(transformer)
    if config.optim.matrices == "muon":
        check_declared(_shapes(transformer), "optim.matrices=muon")


def peak_rate(optim: Optim, transformer: TransformerConfig) -> float:
    """The peak learning rate of the backbone; of a base's parametrization, at the base. nan: a law
    says it.
    """
    lr = math.nan if optim.lr == "law" else optim.lr
    if transformer.base is not None:
        return lr
    return peak_lr(lr, optim.lr_d_model, optim.lr_width_exponent, transformer.d_model)


def _stage_steps(name: str, budget: float, flops_per_token: float, batch_tokens: int) -> int:
    try:
        return plan_steps(budget, flops_per_token, batch_tokens)
    except OffBudgetError as error:
        raise OffBudgetError(f"the share of stage {name}: {error}", error.short) from None


def make_plan(config: RunConfig, transformer: TransformerConfig, ranks: Ranks) -> Plan:
    """Raises OffBudgetError if whole steps miss the budget by more than 1 %, and ValueError for a
    schedule that they are too few for.
    """
    cost, d_model = model_cost(config, transformer), transformer.d_model
    optim, batch_tokens = config.optim, ranks.batch_size * config.data.seq_len
    stages, continual = stages_of(config.data), config.continual
    stage_steps = tuple(
        _stage_steps(name, share * config.budget, cost.training_flops, batch_tokens)
        for name, share in stages.items()
    )
    n_steps = sum(stage_steps) or plan_steps(config.budget, cost.training_flops, batch_tokens)
    for n in stage_steps or (n_steps,):
        check_steps(config, n, batch_tokens)
    n_windows = n_steps * ranks.batch_size
    if continual is not None and 0 < continual.replay * n_windows < 1:
        raise ValueError(
            f"continual.replay={continual.replay:g} of the {n_windows} windows of the run is less "
            f"than one; set it to {1 / n_windows:.1g} or more, or to 0"
        )
    folder = train_folder(config.data, Path(config.paths.cache).expanduser())
    epochs = None
    if folder.exists() and not config.data.streaming and not stages:
        epochs = n_steps * batch_tokens / PackedText(folder).n_tokens
    return Plan(
        cost=cost,
        batch_tokens=batch_tokens,
        n_steps=n_steps,
        lr=peak_rate(optim, transformer),
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


def planned_by_law(config: RunConfig, transformer: TransformerConfig, plan: Plan) -> LawRate:
    """The peak rate of a point by the law that it asks for. Raises ValueError if there is none."""
    optim, cost = config.optim, plan.cost
    assert optim.law is not None
    values = {
        "d_model": transformer.d_model,
        "n_layers": config.size,
        "n_tokens": plan.n_tokens,
        "n_steps": plan.n_steps,
        "batch_tokens": plan.batch_tokens,
        "n_params": cost.n_params,
        "n_active_params": cost.n_active_params,
        "n_non_embedding_params": cost.n_non_embedding_params,
    }
    return rate_by_law(Path(optim.law), optim.law_form, config.model_name, values)


class _Undrawn(TorchFunctionMode):
    """Leaves out initial values. On the meta device drawing them changes nothing, and imports the
    compiler.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def _shapes(transformer: TransformerConfig) -> Transformer:
    with torch.device("meta"), _Undrawn():
        return transformer.build()


@functools.lru_cache(maxsize=256)  # the points of a sweep share shapes
def trained_kinds(transformer: TransformerConfig) -> frozenset[str]:
    """The kinds of parameters that are trained: table, key, backbone (matrices that decay) and
    muon (those that Muon would step).
    """
    model = _shapes(transformer)
    freeze(model)
    roles, kinds = declared_roles(model), set[str]()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.dim() >= 2:
            role = roles.get(name)
            kinds |= {"backbone" if role is None else role.group}
            kinds |= {"muon"} if role is not None and role.is_muons else set()
    return frozenset(kinds)


def _n_of_muon(config: RunConfig, transformer: TransformerConfig) -> int:
    """The trained parameters that have one moment."""
    if config.optim.matrices != "muon":
        return 0
    model = _shapes(transformer)
    freeze(model)
    roles = declared_roles(model)
    matrices = ((roles.get(name), p) for name, p in model.named_parameters() if p.requires_grad)
    return sum(p.numel() for role, p in matrices if role is not None and role.is_muons)
