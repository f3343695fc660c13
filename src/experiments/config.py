"""The shape of conf/, as frozen dataclasses: what run.py reads a composed Hydra config into.

Strict on purpose: an unknown key, a missing one or a wrong type is a ValueError naming it,
wherever it came from (`+typo=1` passes Hydra's own check). A new field is declared by
fields.added: at its default it then leaves the ids of runs as they are.
"""

import dataclasses
import difflib
import importlib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from experiments.costs import FFNConfig

KernelName = Literal["auto", "reference", "torch", "cpp", "triton"]


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """A family of sizes: the width that goes with a number of blocks, and what moves with it.

    d_model = d_per_layer * size. batch_size counts sequences of seq_len tokens. lr is the peak
    learning rate at width lr_d_model; Optim says how it scales with width.
    """

    name: str
    d_per_layer: int
    d_head: int
    tie_head: bool
    vocab_size: int
    seq_len: int
    batch_size: int
    lr: float
    lr_d_model: int


@dataclass(frozen=True, kw_only=True)
class Trunk:
    """Which blocks hold the layer under study (middle | all | [i, ...]), and what the rest hold."""

    ffn_blocks: Any
    base_ffn: Any


@dataclass(frozen=True, kw_only=True)
class Data:
    """A corpus, its tokenizer, how it is packed or streamed, and the held-out n_eval_tokens.

    path is where a corpus of that kind lies; what it holds, not where, is part of the identity.
    """

    corpus: Any
    tokenizer: Any
    path: str | None = None
    seq_len: int
    n_eval_tokens: int
    max_train_tokens: int | None
    max_validation_tokens: int | None
    mask_documents: bool
    streaming: bool
    stream_lanes: int
    stream_shuffle: int

    def __post_init__(self) -> None:
        for name in ("seq_len", "n_eval_tokens", "stream_lanes", "stream_shuffle"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.{name}={getattr(self, name)} must be at least 1")
        for name in ("max_train_tokens", "max_validation_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"data.{name}={value} must be at least 1, or null for all")


@dataclass(frozen=True, kw_only=True)
class EvalSet:
    """A named set to score: splits of a corpus, null being the run's own.

    max_tokens: tokenize no more of a split than this.
    """

    corpus: Any
    splits: tuple[str, ...]
    max_tokens: int | None = None


@dataclass(frozen=True, kw_only=True)
class EvaluationRule:
    """How sets are scored: windows of data.seq_len tokens, `stride` targets each (null: all)."""

    stride: int | None
    max_tokens: int | None
    batch_size: int | None

    def __post_init__(self) -> None:
        for name in ("stride", "max_tokens", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"evaluation.{name}={value} must be at least 1, or null")


@dataclass(frozen=True, kw_only=True)
class Optim:
    """AdamW and its schedule. Peak rate: lr * (lr_d_model / d_model)**lr_width_exponent.

    table_lr and key_lr multiply that rate for expert tables and for queries and product keys.
    table_gradient: how tables are stepped (optimizer.py): dense: torch's AdamW | rows: the
    retrieved rows alone | fused: the same in the backward pass, without clipping.
    table_state: the type of a table's moments, of rows and fused. grad_clip: null for none.
    warmup and decay are fractions of the steps; final_lr is a fraction of the peak.
    """

    lr: float
    lr_d_model: int
    lr_width_exponent: float
    table_lr: float
    key_lr: float
    weight_decay: float
    beta1: float
    beta2: float
    eps: float
    grad_clip: float | None
    schedule: Literal["cosine", "wsd"]
    warmup: float
    decay: float
    final_lr: float
    # defaults: of records from before there was a choice
    table_gradient: Literal["dense", "rows", "fused"] = "dense"
    table_state: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """Where and how fast a run is computed; no part of its identity, with one exception.

    devices of each of num_nodes nodes train one run together, a process each (DDP).
    micro_batch_size: sequences of a process's forward pass, whose gradients add up to the step's;
    null for all at once. Expert choice and the balance loss see the tokens of one forward pass,
    batch norm those of all processes' at once: how many is part of such a run's identity
    (identity.mixed_sequences).
    n_threads: CPU threads, null for all that the process may use. n_loader_workers: processes that
    make batches, null for none where tokens are packed and two where they are streamed.
    flops_per_second: the rate that estimates assume, null to measure this machine.
    """

    accelerator: str
    precision: str
    devices: int
    num_nodes: int
    micro_batch_size: int | None
    n_threads: int | None
    flops_per_second: float | None
    n_loader_workers: int | None
    checkpoint_minutes: float
    log_every_seconds: float


@dataclass(frozen=True, kw_only=True)
class Logger:
    """wandb: auto (online with a key and a network, else offline) | online | offline | disabled."""

    wandb: Literal["auto", "online", "offline", "disabled"]
    project: str
    entity: str | None
    log_every_n_steps: int


@dataclass(frozen=True, kw_only=True)
class Paths:
    """results/<sweep>/<run_id> and the data cache; relative to the working directory."""

    results: str
    cache: str


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One point: everything that `python -m experiments.run` can be told.

    kernel: what reads expert tables (kernels/select.py). budget in training FLOPs; size in blocks;
    n_experts as the model resolved it, None if it has none. What has a `_target_` (model,
    trunk.base_ffn, data.corpus, data.tokenizer, the corpora of eval) is built from it.
    """

    model_name: str
    model: FFNConfig
    n_experts: int | None
    size: int
    budget: float
    seed: int
    sweep: str
    dry_run: bool
    retry: Literal["failed", "all", "none"]
    ladder: Ladder
    trunk: Trunk
    data: Data
    eval: Mapping[str, EvalSet]
    evaluation: EvaluationRule
    optim: Optim
    trainer: Trainer
    logger: Logger
    paths: Paths
    kernel: KernelName = "auto"  # as in records from before there was a choice


def read_run_config(raw: Mapping[str, Any]) -> RunConfig:
    """The typed config of one composed, resolved mapping.

    Raises ValueError for unknown or missing keys, wrong types, values a layer refuses, and
    n_experts given to a model that has no experts.
    """
    raw = dict(raw)
    n_experts = raw.get("n_experts")
    name = raw.get("model_name")
    raw["model"] = build(raw.get("model"), "model")
    if n_experts is not None and not hasattr(raw["model"], "n_experts"):
        raise ValueError(
            f"n_experts={n_experts} with model={name}, which has no experts; drop n_experts, "
            "or sweep the models that have it apart from those that don't"
        )
    trunk = dict(raw.get("trunk") or {})
    data = dict(raw.get("data") or {})
    trunk["base_ffn"] = build(trunk.get("base_ffn"), "trunk.base_ffn")
    data["corpus"] = build(data.get("corpus"), "data.corpus")
    data["tokenizer"] = build(data.get("tokenizer"), "data.tokenizer")
    sets = read_eval_sets(raw.get("eval") or {})
    config: RunConfig = read(RunConfig, {**raw, "trunk": trunk, "data": data, "eval": sets})
    stride = config.evaluation.stride
    if stride is not None and stride > config.data.seq_len:
        raise ValueError(f"evaluation.stride={stride} is above data.seq_len={config.data.seq_len}")
    if config.size < 1:
        raise ValueError(f"size={config.size} must be at least 1 block")
    if config.budget <= 0:
        raise ValueError(f"budget={config.budget:g} must be above 0 FLOPs")
    return config


def read_eval_sets(raw: Mapping[str, Any]) -> dict[str, EvalSet]:
    """The sets of the config node `eval`, by name."""
    sets = {}
    for name, node in raw.items():
        values = dict(node)
        if values.get("corpus") is not None:
            values["corpus"] = build(values["corpus"], f"eval.{name}.corpus")
        sets[name] = read(EvalSet, values, f"eval.{name}")
    return sets


def build(node: Any, where: str) -> Any:
    """The dataclass that a config node names by its `_target_`, with the node's other keys."""
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise ValueError(f"{where}: needs a _target_ naming the class to build")
    fields = {k: v for k, v in node.items() if k != "_target_"}
    return read(target_class(node, where), fields, where)


def target_class(node: Mapping[str, Any], where: str) -> Any:
    """What a config node's `_target_` names. Raises ValueError if that can't be imported."""
    module, _, name = str(node["_target_"]).rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{where}._target_={node['_target_']!r} can't be imported") from error


def read(cls: type, values: Mapping[str, Any], where: str = "") -> Any:
    """An instance of the dataclass `cls`, with every key known and every type right."""
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    prefix = f"{where}." if where else ""
    for key in values:
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"did you mean {prefix}{close[0]}?" if close else f"known: {', '.join(fields)}"
            raise ValueError(f"{prefix}{key}: unknown key; {hint}")
    for name, field in fields.items():
        if field.default is dataclasses.MISSING and values.get(name, "???") == "???":
            raise ValueError(f"{prefix}{name} is not set; give {prefix}{name}=...")
    return cls(**{k: read_value(v, hints[k], f"{prefix}{k}") for k, v in values.items()})


def read_value(value: Any, hint: Any, where: str) -> Any:
    """The value as its hint has it: floats, groups, tuples. Raises ValueError for another type."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise ValueError(f"{where}={value!r} must be a group of keys")
        return read(hint, value, where)
    origin = typing.get_origin(hint)
    if origin is Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            raise ValueError(f"{where}={value!r} is not one of {', '.join(choices)}")
        return value
    allowed = typing.get_args(hint) if origin in (typing.Union, types.UnionType) else (hint,)
    if value is None and type(None) in allowed:
        return None
    if float in allowed and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = [t for t in allowed if t in (int, float, str, bool)]
    if plain and type(value) not in plain:
        names = " or ".join(t.__name__ for t in plain)
        raise ValueError(f"{where}={value!r} must be of type {names}")
    return tuple(value) if isinstance(value, list) else value
