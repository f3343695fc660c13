"""What makes two runs the same run: a hash of the settings that can change the result."""

import dataclasses
import hashlib
import json
import typing
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from experiments.budget.costs import FFNConfig
from experiments.config.effects import without
from experiments.config.fields import is_unchanged
from experiments.config.reading import group_class, read_value, target_class
from experiments.config.schema import RunConfig
from experiments.system.distributed import Ranks

NOT_IDENTITY = (
    "sweep", "dry_run", "retry", "kernel", "eval", "evaluation", "trainer", "logger", "paths",
    "model_name",
)  # fmt: skip
_OF_DECAY = ("decay", "decay_tokens", "decay_shape", "final_lr")  # of optim


def run_id(
    raw: Mapping[str, Any],
    data: Mapping[str, Any],
    mixed: Mapping[str, int],
    leave_out: Collection[str] = (),
) -> str:
    """A run's name: 12 hex digits of the hash of its resolved config.

    Settings that cannot change the result are left out: the place of its files, logging, hardware,
    the name of the sweep, the held-out sets, the law that a learning rate is from, the place of a
    branch's trunk, of a trunk its length and its branches' decay, and the place of weights to start
    from (their hash stays). So are fields declared by fields.added that have their default value.
    `data` replaces keys of the node of that name: the identities of corpus and tokenizer instead of
    their paths.
    `mixed` is the result of mixed_sequences. `leave_out`: dotted names of settings that count not.
    """
    kept = {k: v for k, v in raw.items() if k not in NOT_IDENTITY}
    identity = without(_without_unchanged(kept, RunConfig), leave_out)
    own = {k: v for k, v in (identity.get("data") or {}).items() if k != "path"}
    identity["data"] = {**own, **data}
    if "optim" in identity:  # where the rate came from; the rate itself stays
        identity["optim"] = {
            k: v for k, v in identity["optim"].items() if k not in ("law", "law_form")
        }
    if identity.get("init"):
        identity["init"] = {
            k: v for k, v in identity["init"].items() if k not in ("path", "weights")
        }
    optim = identity.get("optim") or {}
    if optim.get("branch_from"):
        identity["optim"] = {**optim, "branch_from": "trunk"}
    if optim.get("schedule") == "trunk":
        del identity["budget"]
        identity["optim"] = {k: v for k, v in optim.items() if k not in _OF_DECAY}
    if mixed:
        identity["mixed_sequences"] = dict(mixed)
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def mixed_sequences(ranks: Ranks, ffns: Iterable[FFNConfig]) -> dict[str, int]:
    """How many sequences the layers that mix tokens see together, if less than a whole batch.

    By what they mix (FFNConfig.mixes): the tokens of one process's forward pass, or those of all
    processes' forward passes at once. Empty for layers that don't mix, and for one forward pass
    over the whole batch: neither the number of processes nor micro-batches change those.
    """
    together = ranks.world_size * ranks.n_sequences
    sequences = {"process": ranks.n_sequences, "all_processes": together}
    mixing = {getattr(ffn, "mixes", None) for ffn in ffns}
    return {what: n for what, n in sequences.items() if what in mixing and n != ranks.batch_size}


def _without_unchanged(node: Any, hint: Any) -> Any:
    """The node without fields that are younger than records and stand at their default.

    hint: the type that the node's parent declares for it; a node with a `_target_` says itself.
    """
    if isinstance(node, list):
        return [_without_unchanged(item, None) for item in node]
    if not isinstance(node, Mapping):
        return node
    cls = group_class(hint)
    if "_target_" in node:
        cls = target_class(node, "_target_")
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        return {key: _without_unchanged(item, None) for key, item in node.items()}
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    return {
        key: _without_unchanged(item, hints.get(key))
        for key, item in node.items()
        if key not in fields or not is_unchanged(fields[key], read_value(item, hints[key], key))
    }
