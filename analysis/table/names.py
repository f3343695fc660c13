"""Names of our columns in other tables: exact names, patterns, and names with a unit in them."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from analysis.settings import setting
from analysis.table.units import Unit, split_unit, unit_in_name

ALIASES = {  # what it is called elsewhere -> here; only what can mean nothing else
    "val_loss": "loss",  # our records' name; it is held out, which a plain "loss" may not be
    "validation_loss": "loss",
    "eval_loss": "loss",
    "val/loss": "loss",  # W&B's way to group metrics
    "eval/loss": "loss",
    "params": "n_params",  # total, by the convention of scaling-law tables
    "num_params": "n_params",
    "total_params": "n_params",
    "active_params": "n_active_params",
    "tokens": "n_tokens",
    "num_tokens": "n_tokens",
    "n_unique_tokens": "unique_tokens",
    "flops": "budget",  # of the whole training
    "compute": "budget",
    "num_experts": "n_experts",
    "learning_rate": "lr",  # "num_heads" is not here: it is attention's
}
# Of published tables and other harnesses. One that is taken is a note: the meaning is a guess
GUESSES = {
    "N": "n_params",  # Chinchilla's letters; these four in this case only
    "Na": "n_active_params",
    "D": "n_tokens",
    "C": "budget",
    "loss_validation": "loss",  # Clark 2022
    "valid_loss": "loss",
    "loss_val": "loss",
    "test_loss": "loss",
    "final_val_loss": "loss",
    "parameter_count": "n_params",  # marin, levanter
    "params_total": "n_params",  # nanochat
    "num_parameters": "n_params",
    "n_parameters": "n_params",
    "parameters": "n_params",
    "param_count": "n_params",
    "total_parameters": "n_params",
    "total_parameter_count": "n_params",
    "n_active": "n_active_params",
    "active_parameters": "n_active_params",
    "activated_params": "n_active_params",
    "params_active": "n_active_params",
    "non_embedding_params": "n_non_embedding_params",
    "params_transformer": "n_non_embedding_params",  # nanochat: without its head as well
    "tokens_trained": "n_tokens",  # nanochat
    "total_tokens": "n_tokens",
    "train_tokens": "n_tokens",
    "training_tokens": "n_tokens",
    "tokens_seen": "n_tokens",
    "throughput/total_tokens": "n_tokens",  # marin, OLMo
    "flops_budget": "budget",  # nanochat
    "flop_budget": "budget",
    "compute_budget": "budget",
    "total_flops": "budget",
    "train_flops": "budget",
    "training_flops": "budget",
    "peak_lr": "lr",
    "max_lr": "lr",
    "lr_max": "lr",
    "peak_learning_rate": "lr",
    "learning_rate_peak": "lr",  # OLMo
    "optimizer.learning_rate": "lr",  # marin
    "random_seed": "seed",
    "ppl": "perplexity",
    "val_ppl": "perplexity",
    "val_perplexity": "perplexity",
    "eval_perplexity": "perplexity",
    "validation_perplexity": "perplexity",
    "eval/perplexity": "perplexity",
    "val/perplexity": "perplexity",
    "bpb": "bits_per_byte",
    "val_bpb": "bits_per_byte",  # nanochat
    "eval_bpb": "bits_per_byte",
    "eval/bpb": "bits_per_byte",  # marin
    "val/bpb": "bits_per_byte",
}
# Where nothing above is a column's
_LAST = {
    "smooth_loss": "loss",  # Step Law's, of training
    "final_loss": "loss",
}
_PATTERNS = (  # one set of many, as W&B groups them; of several the user has to choose
    (re.compile(r"eval/.+/(loss|CE loss|CrossEntropyLoss)"), "loss"),
    (re.compile(r"eval/.+/bpb"), "bits_per_byte"),
)
# What is before "_gflops" where that is compute; "gflops" alone may be a speed
_COMPUTE = ("total", "train", "training", "total_training", "c")
# Our names that others write in another case; a "Status" may hold other words than ours
_IN_ANY_CASE = (*{*ALIASES.values(), *GUESSES.values()}, "model")
_LETTERS = ("N", "Na", "D", "C")


@dataclass(frozen=True, kw_only=True)
class Match:
    """A frame's column that may be ours; guessed: its name may mean something else."""

    name: str
    unit: Unit | None = None
    guessed: bool = False


def find_matches(column: str, names: Iterable[str]) -> list[Match]:
    """Columns of a frame that may be our `column`, of the most certain kind that it has."""
    names = list(names)
    exact = [name for name in names if ALIASES.get(name) == column]
    if exact:
        return [Match(name=name) for name in exact]
    patterns = [pattern for pattern, ours in _PATTERNS if ours == column]
    for found in (
        [Match(name=n, guessed=True) for n in names if _plain(n, column)],
        _with_unit(column, names),
        [Match(name=n, guessed=True) for n in names if any(p.fullmatch(n) for p in patterns)],
        [Match(name=n, guessed=True) for n in names if _LAST.get(_key(n)) == column],
    ):
        if found:
            return found
    return []


def is_held_out(match: Match) -> bool:
    """Whether a loss's column says that it is of validation; a plain "loss" may be of training."""
    return {**ALIASES, **GUESSES}.get(_key(match.name)) == "loss"


def is_last_resort(match: Match) -> bool:
    """Whether a column is taken for ours only where no other is, as "smooth loss" is."""
    return _key(match.name) in _LAST


def own_unit(column: str, given: str) -> Unit | None:
    """Unit that the name of a column chosen by hand has in it, e.g. "cost (PFLOPs)".

    A loss may be chosen by the whole name of its unit, e.g. "lambada.perplexity".
    """
    units = [unit_in_name(column, unit) for _, unit in split_unit(given)]
    if column == "loss":
        units.append(unit_in_name(column, re.split(r"[./]", given)[-1]))
    return next((unit for unit in units if unit is not None), None)


def guess_notes(sources: dict[str, Match]) -> list[str]:
    """A note for the names that were guessed; none without."""
    taken = [f"{ours} is {match.name}" for ours, match in sources.items() if match.guessed]
    if not taken:
        return []
    otherwise = setting("columns", {"OURS": "THEIRS"})
    return [f"by their names: {', '.join(taken)}; {otherwise} says otherwise"]


def _key(name: str) -> str:
    """Without the difference of "Val Loss" and "val_loss"; letters as they are."""
    name = name.strip()
    return name if name in _LETTERS else re.sub(r"[\s_-]+", "_", name).lower()


def _plain(name: str, column: str) -> bool:
    """Whether a name is ours or an alias but for case and blanks, or one of the letters."""
    key = _key(name)
    known = {**ALIASES, **GUESSES}.get(key)
    return known == column or (key == column and name != column and key in _IN_ANY_CASE)


def _with_unit(column: str, names: Iterable[str]) -> list[Match]:
    found = []
    for name in names:
        for base, text in split_unit(name):
            unit = unit_in_name(column, text)
            compute = _key(base).removeprefix("throughput/") in _COMPUTE and column == "budget"
            named = base == column or _plain(base, column) or compute
            if unit is not None and named:
                found.append(Match(name=name, unit=unit, guessed=True))
                break
    return found
