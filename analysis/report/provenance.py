"""How a sweep's runs were made: the settings they share or vary, their code and their commands."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.records.record import RunRecord, typed_command
from experiments.records.uncommitted import uncommitted_note

_SETTINGS = {  # what it is called -> its key in a record's config
    "corpus": "data.corpus._target_",
    "tokenizer": "data.tokenizer._target_",
    "vocabulary": "ladder.vocab_size",
    "sequence length": "data.seq_len",
    "sequences a batch": "ladder.batch_size",
    "held-out tokens": "data.n_eval_tokens",
    "ladder": "ladder.name",
    "blocks with the layer": "trunk.ffn_blocks",
    "head tied to the embedding": "ladder.tie_head",
    "peak learning rate": "optim.lr",
    "schedule": "optim.schedule",
    "warm-up, share of the steps": "optim.warmup",
    "final learning rate, share of the peak": "optim.final_lr",
    "tables' learning rate, times the backbone's": "optim.table_lr",
    "keys' learning rate, times the backbone's": "optim.key_lr",
    "weight decay": "optim.weight_decay",
    "Adam's betas": "optim.beta1,optim.beta2",
    "gradient clip": "optim.grad_clip",
    "precision": "trainer.precision",
}
_MANY = 6  # values of a setting that are listed


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """settings: name -> its value, or "varies: ..."; commands and commits: each once, in order;
    uncommitted: how many runs are of code that no commit has.
    """

    settings: Mapping[str, str] = field(default_factory=dict)
    commands: tuple[str, ...] = ()
    commits: tuple[str, ...] = ()
    uncommitted: str | None = None
    devices: tuple[str, ...] = ()


def find_provenance(found: Iterable[RunRecord], run_ids: Collection[str]) -> Provenance:
    """Provenance of the records with these run_ids; without records none is known."""
    wanted = set(run_ids)
    records = [r for r in found if r.run_id in wanted]
    if not records:
        return Provenance()
    settings = {}
    for name, keys in _SETTINGS.items():
        values = [_show(r.config, keys.split(",")) for r in records]
        known = [value for value in dict.fromkeys(values) if value]
        if known:
            more = ", ..." if len(known) > _MANY else ""
            listed = ", ".join(known[:_MANY]) + more
            settings[name] = listed if len(known) == 1 else f"varies: {listed}"
    environments = [r.environment for r in records]
    return Provenance(
        settings=settings,
        commands=_once(typed_command(e) for e in environments),
        commits=_once(_commit(e) for e in environments),
        uncommitted=uncommitted_note(records),
        devices=_once(str(e.get("device") or "") for e in environments),
    )


def _once(values: Any) -> tuple[str, ...]:
    return tuple(value for value in dict.fromkeys(values) if value)


def _value(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _show(config: Mapping[str, Any], keys: Sequence[str]) -> str:
    """Values of the keys; of a class the last part of its path. "" if one is not recorded."""
    values = [_value(config, key) for key in keys]
    if None in values:
        return ""
    texts = [
        str(value).rpartition(".")[2] if key.endswith("_target_") else str(value)
        for key, value in zip(keys, values, strict=True)
    ]
    return " and ".join(texts)


def _commit(environment: Mapping[str, Any]) -> str:
    commit = environment.get("git_commit")
    if not commit:
        return ""
    return f"{str(commit)[:12]}{' with changes' if environment.get('git_dirty') else ''}"
