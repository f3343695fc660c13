"""Reading a composed Hydra config: into schema.py's dataclasses, with what each `_target_`
names built, and asked whether it can do what its place needs.
"""

import types
from collections.abc import Mapping
from functools import partial
from typing import Any

from experiments.config import former_trunk
from experiments.config.constraints import read_hints, shown
from experiments.config.once import once
from experiments.config.optim import FORMER
from experiments.config.reading import build, check_chosen, read, read_value
from experiments.config.schema import OF_TRUNK, Data, EvalSet, RunConfig, Trunk

# costs.FFNConfig, data.corpus.Corpus, data.tokenizer.TokenizerConfig,
# optim.optimizer.OptimizerConfig
_LAYER, _CORPUS, _TOKENIZER = ("cost", "build"), ("documents",), ("n_entries", "make")
_OPTIMIZER = ("takes", "moments", "step")
_WEIGHTS, _PART = ("shape", "digest", "tokenizer", "state"), ("start", "training")
_TRACKER = ("check", "start")


def read_run_config(raw: Mapping[str, Any]) -> RunConfig:
    """Typed config of one composed, resolved mapping.

    Raises ValueError for unknown or missing keys, wrong types, values out of range or that a layer
    refuses, and n_experts given to a model that has no experts.
    """
    raw = dict(raw)
    for group in ("trunk", "data", "eval", "init", "continual", "cluster", "logger"):
        if not isinstance(raw.get(group), (Mapping, types.NoneType)):
            raise ValueError(f"{group}={shown(raw[group])} must be a group of keys")
    raw["model"], sets = _model(raw), _eval_sets(raw.get("eval") or {})
    if raw.get("parts") is not None:
        raw["parts"] = _parts(raw["parts"])
    if raw.get("continual") is not None:
        check_chosen(raw["continual"], "continual", "replay", "l2")
    if raw.get("cluster") is not None:
        check_chosen(raw["cluster"], "cluster", "card", "memory_gib")
    trunk, data = raw.get("trunk") or {}, raw.get("data") or {}
    raw["trunk"] = once("trunk", trunk, partial(_trunk, trunk))
    if raw.get("init") is not None:
        weights = build(raw["init"].get("weights"), "init.weights", _WEIGHTS)
        raw["init"] = {**raw["init"], "weights": weights}
    if raw.get("ladder") is not None:  # its rate before optim.lr, which it becomes
        raw["ladder"] = read_value(raw["ladder"], read_hints(RunConfig)["ladder"], "ladder")
    if raw.get("optim") is not None:
        raw["optim"] = build(FORMER.today(raw["optim"], "optim"), "optim", _OPTIMIZER)
    raw["data"] = once("data", data, partial(_data, data))
    if (raw.get("logger") or {}).get("tools") is not None:
        raw["logger"] = {**raw["logger"], "tools": _tools(raw["logger"]["tools"])}
    config: RunConfig = read(RunConfig, {**raw, "eval": sets})
    stride = config.evaluation.stride
    if stride is not None and stride > config.data.seq_len:
        raise ValueError(f"evaluation.stride={stride} is above data.seq_len={config.data.seq_len}")
    return config


def _trunk(node: Mapping[str, Any]) -> Trunk:
    found = former_trunk.today(node)
    found["base_ffn"] = _base_ffn(found.get("base_ffn"))
    for part, needs in OF_TRUNK.items():
        found[part] = build(found[part], f"trunk.{part}", needs)
    made: Trunk = read(Trunk, found, "trunk")
    return made


def _data(node: Mapping[str, Any]) -> Data:
    corpus = build(node.get("corpus"), "data.corpus", _CORPUS)
    tokenizer = build(node.get("tokenizer"), "data.tokenizer", _TOKENIZER)
    made: Data = read(Data, {**node, "corpus": corpus, "tokenizer": tokenizer}, "data")
    return made


def _parts(node: Any) -> dict[str, Any]:
    """Parts of one's own, by name."""
    if not isinstance(node, Mapping) or not node:
        raise ValueError(
            f"parts={shown(node)} names no part that conf/parts has; write one "
            "(src/experiments/points/README.md), or leave parts out"
        )
    return {name: build(one, f"parts.{name}", _PART) for name, one in node.items()}


def _tools(node: Any) -> dict[str, Any]:
    """Trackers beside W&B, by name."""
    if not isinstance(node, Mapping):
        raise ValueError(f"logger.tools={shown(node)} must be a group of keys, as conf/logger has")
    return {name: build(one, f"logger.tools.{name}", _TRACKER) for name, one in node.items()}


def _base_ffn(node: Any) -> Any:
    """Config of the other blocks' layer, or a tuple of one for each block."""
    if isinstance(node, (list, tuple)):
        each = enumerate(node)
        return tuple(build(one, f"trunk.base_ffn.{i}", _LAYER) for i, one in each)
    return build(node, "trunk.base_ffn", _LAYER)


def _model(raw: Mapping[str, Any]) -> Any:
    """Config of the layer under study."""
    n_experts, node = raw.get("n_experts"), raw.get("model")
    try:
        model = build(node, "model", _LAYER)
    except ValueError as error:  # the name that a user gives: both are one number
        raise ValueError(str(error).replace("model.n_experts=", "n_experts=")) from None
    own = getattr(model, "n_experts", None)
    if n_experts is not None and own is None:
        raise ValueError(
            f"n_experts={shown(n_experts)} with model={raw.get('model_name')}, which has no "
            "experts; drop n_experts, or sweep the models that have it apart from those that don't"
        )
    if n_experts is not None and own != n_experts:
        raise ValueError(
            f"model.n_experts={own} with n_experts={shown(n_experts)}: give n_experts={own} alone, "
            "which sets both"
        )
    return model


def _eval_sets(raw: Mapping[str, Any]) -> dict[str, EvalSet]:
    """Sets of the config node `eval`, by name."""
    sets = {}
    for name, node in raw.items():
        if not isinstance(node, Mapping):
            raise ValueError(f"eval.{name}={shown(node)} must be a group of keys, as conf/eval has")
        sets[name] = once(("eval", name), node, partial(_eval_set, name, node))
    return sets


def _eval_set(name: str, node: Mapping[str, Any]) -> EvalSet:
    values = dict(node)
    if values.get("corpus") is not None:
        values["corpus"] = build(values["corpus"], f"eval.{name}.corpus", _CORPUS)
    made: EvalSet = read(EvalSet, values, f"eval.{name}")
    return made
