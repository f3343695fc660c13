"""Record of a run: every column's meaning and unit. Stdlib only.

Analysis reads these and nothing else of the harness; it never recomputes what stands here.
"""

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

STATUSES = ("done", "failed", "diverged", "hopeless")
CUT_SHORT = ("diverged", "hopeless")  # ended before their plan, and would again
ENDED = ("done", *CUT_SHORT)
SCHEMA_VERSION = 1
_NESTED = (
    "config", "layer", "environment", "flops_shares", "documents", "evaluations", "init", "before",
    "stages", "trunk", "parts",
)  # fmt: skip
_OF_START = ("how", "train", "flops")
_OF_PARENT = ("run_id", "n_experts", "flops")
_OF_TRUNK = ("n_steps", "flops", "own_steps", "own_flops")
# Defaults of settings that layers got later: some records from before `layer` say them, some don't
_EARLIER_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "MoEConfig": {"glu": False},
    "PEERConfig": {
        "share_experts": True,
        "output_gate": False,
        "shared_width_factor": 0.0,
        "blocks_share_keys": False,
    },
    "UltraMemConfig": {"heads_per_query": 1, "core_start": "diagonal"},
    "EngramConfig": {"gate_root": False, "dilation": 1},
}
_OF_MACHINE = ("device", "kernel")  # of the environment


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One finished run. FLOPs are training FLOPs, losses are nats per token."""

    run_id: str  # hash of the resolved config without paths, logging and trainer
    sweep: str
    status: str  # done | failed | diverged | hopeless: stopped by trainer.stop_hopeless
    model: str  # the choice of conf/model
    seed: int
    budget: float  # FLOPs asked for
    n_layers: int
    d_model: int
    n_experts: int | None  # of the layer under study; None if it has none
    n_params: int
    n_active_params: int
    n_non_embedding_params: int
    flops_per_token: float  # training: 3x forward, less where weights are frozen
    flops_shares: dict[str, float]  # term -> share of the FLOPs
    planned_flops: float
    n_steps: int
    batch_tokens: int
    n_tokens: int  # trained on, repeats included
    lr: float  # peak, of the backbone
    causal_eval: bool  # False: the evaluation lets positions see later ones (expert choice)
    n_trained_params: int | None = None  # None, of records from before any could be frozen: all
    init: dict[str, Any] = field(default_factory=dict)  # weights started from: hash, how, FLOPs
    before: dict[str, dict[str, Any]] = field(default_factory=dict)  # evaluations at the start
    achieved_flops: float | None = None
    epochs: float | None = None  # n_tokens over the corpus's tokens; None if streamed
    train_loss: float | None = None  # mean of the last tenth of the steps
    val_loss: float | None = None
    perplexity: float | None = None  # exp(val_loss), per token
    bits_per_byte: float | None = None
    bytes_per_token: float | None = None  # of the held-out text
    n_eval_tokens: int | None = None
    documents: dict[str, Any] = field(default_factory=dict)  # held out: training/by_document.py
    evaluations: dict[str, dict[str, Any]] = field(default_factory=dict)  # named set -> its results
    stages: list[dict[str, Any]] = field(default_factory=list)  # of a stream: scores after each
    trunk: dict[str, Any] = field(default_factory=dict)  # of a branch: its id, both parts' FLOPs
    parts: dict[str, Any] = field(default_factory=dict)  # columns of parts that have none above
    tokenizer_sha256: str | None = None
    train_digest: str | None = None  # of the training tokens; None if they were streamed
    usage: float | None = None  # share of experts with weight on the held-out set, mean of layers
    unevenness: float | None = None  # KL to uniform, nats, mean of layers
    wall_seconds: float | None = None  # the whole run: building, training, evaluation
    train_seconds: float | None = None  # in the process that finished it, compiling not included
    compile_seconds: float | None = None  # torch.compile's, in that process; None: it ran eagerly
    tokens_per_second: float | None = None  # in training
    flops_per_second: float | None = None  # in training
    peak_flops_per_second: float | None = None  # measured: the best square product here
    mfu: float | None = None  # flops_per_second / peak_flops_per_second
    peak_memory_bytes: int | None = None
    accelerator: str | None = None  # cpu | cuda: trainer.accelerator's auto, of this run
    precision: str | None = None  # 32-true | bf16-mixed: trainer.precision's auto, of this run
    planned_card: str | None = None  # the cluster's; None: planned for the machine that ran it
    error: str | None = None  # the traceback, if failed
    started: str | None = None  # ISO 8601, UTC
    environment: dict[str, Any] = field(default_factory=dict)  # versions, git, host, device, kernel
    config: dict[str, Any] = field(default_factory=dict)  # resolved
    layer: dict[str, Any] = field(default_factory=dict)  # what its config says to tell it by
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"status={self.status!r} is not one of {', '.join(STATUSES)}")

    @property
    def is_trunk(self) -> bool:
        """Whether it is of a trunk: steps for branches to start from, and no result of a budget."""
        optim = self.config.get("optim")
        return isinstance(optim, dict) and optim.get("schedule") == "trunk"

    @property
    def is_debugging(self) -> bool:
        """Whether it is of a run to look at (debug=NAME), and no result."""
        return self.config.get("debug") is not None


def layer_settings(record: RunRecord) -> dict[str, Any]:
    """Settings of the layer under study but n_experts, nested ones dotted, lists as texts."""
    model = record.config.get("model")
    layer = record.layer or earlier_layer(model if isinstance(model, dict) else {})
    return {name: value for name, value in _flat(layer) if name != "n_experts"}


def earlier_layer(model: Mapping[str, Any]) -> dict[str, Any]:
    """As `layer`, from the section `model` of the config of a record that has none."""
    kind = str(model.get("_target_", "")).rpartition(".")[2]
    defaults = _EARLIER_DEFAULTS.get(kind, {})
    return {
        name: value
        for name, value in model.items()
        if name != "_target_" and (name not in defaults or value != defaults[name])
    }


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value) if isinstance(value, list | tuple) else value


def typed_command(environment: Mapping[str, Any]) -> str:
    """Command of a record's environment, as it can be typed again; "" if it has none.

    The recorded one starts with the program's file: of a module, run.py, or of the console script,
    `experiments run`, which once was experiments-run; once with its path.
    """
    given = environment.get("command")
    words = [str(word) for word in given] if isinstance(given, list) else []
    if not words:
        return ""
    module = re.sub(r"^experiments[- ]", "", PurePath(words[0]).stem)
    return shlex.join(["python", "-m", f"experiments.{module}", *words[1:]])


def flat_row(record: RunRecord) -> dict[str, Any]:
    """Record as a row of a table: its plain columns, then layer.<setting> of the layer under
    study, device and kernel of its environment, share.<term> of the FLOPs and <set>.<column> of
    every evaluation; init.<key> and before.<set>.<column> of a run that started from weights; of a
    branch its trunk's id as trunk, and trunk.<key>; <part>.<key> of parts of one's own.
    """
    # Not asdict, which copies what is nested: 7 s of 10,000 records
    row = {name: value for name, value in vars(record).items() if name not in _NESTED}
    row |= {f"layer.{name}": value for name, value in layer_settings(record).items()}
    row |= {name: record.environment.get(name) for name in _OF_MACHINE}
    row |= {f"share.{term}": share for term, share in record.flops_shares.items()}
    row |= {f"init.{key}": record.init[key] for key in _OF_START if key in record.init}
    parent = record.init.get("parent")
    parent = parent if isinstance(parent, dict) else {}
    row |= {f"init.parent.{key}": parent[key] for key in _OF_PARENT if key in parent}
    if record.trunk:
        row["trunk"] = record.trunk.get("run_id")
        row |= {f"trunk.{key}": record.trunk[key] for key in _OF_TRUNK if key in record.trunk}
    for name, columns in record.parts.items():
        values = columns if isinstance(columns, dict) else {}
        row |= {f"{name}.{key}": value for key, value in values.items()}
    for name, scores in record.before.items():
        row |= {f"before.{name}.{column}": value for column, value in scores.items()}
    for name, scores in record.evaluations.items():
        row |= {f"{name}.{column}": value for column, value in scores.items()}
    return row
