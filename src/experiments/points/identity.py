"""What makes two runs the same run: a hash of the settings that can change the result."""

import functools
import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from experiments.budget.costs import FFNConfig
from experiments.config import former_trunk
from experiments.config.optim import FORMER
from experiments.config.reading import without, without_unchanged
from experiments.config.schema import RunConfig
from experiments.data.prepare import data_identity
from experiments.points.point import Draft, Point
from experiments.system.distributed import Ranks

NOT_IDENTITY = (
    "sweep", "dry_run", "verbose", "retry", "kernel", "eval", "evaluation", "trainer", "cluster",
    "logger", "paths", "model_name", "tags",
)  # fmt: skip


def compute_id(
    raw: Mapping[str, Any], draft: Draft | Point, leave_out: Collection[str] = ()
) -> str:
    """A run's name: 12 hex digits of the hash of its resolved config.

    Settings that cannot change the result are left out: the place of its files, logging, hardware,
    the name of the sweep, the held-out sets, and what its parts leave out. So are fields declared
    by fields.added that have their default value. Corpus and tokenizer are there by what they are,
    and not by their paths. draft: the run, or one that differs in no part of it but by `raw`.
    leave_out: dotted names of settings that count not.
    """
    kept = {k: v for k, v in raw.items() if k not in NOT_IDENTITY}
    kept |= {"optim": FORMER.before(kept["optim"]), "trunk": former_trunk.before(kept["trunk"])}
    identity = without(_without_unchanged(kept), leave_out)
    own = {k: v for k, v in (identity.get("data") or {}).items() if k != "path"}
    identity["data"] = {**own, **data_identity(draft.config.data)}
    for part in draft.parts:
        identity = part.identity(identity)
    mixed = mixed_sequences(draft.ranks, draft.transformer.ffns)
    if mixed:
        identity["mixed_sequences"] = mixed
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _without_unchanged(raw: Mapping[str, Any]) -> dict[str, Any]:
    """As `without_unchanged` of a run's config. Of groups that points of a sweep share the work is
    done once.
    """
    kept: dict[str, Any] = {}
    for key, value in raw.items():
        kept |= json.loads(_text_without_unchanged(json.dumps({key: value})))
    return kept


@functools.lru_cache(1024)
def _text_without_unchanged(text: str) -> str:
    return json.dumps(without_unchanged(json.loads(text), RunConfig))


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
