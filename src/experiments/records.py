"""The record of a run: one record.json, with every column's meaning and unit. Stdlib only.

Analysis reads these and nothing else of the harness; it never recomputes what stands here.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

RECORD_NAME = "record.json"
STATUSES = ("done", "failed", "diverged")
SCHEMA_VERSION = 1
_NESTED = ("config", "environment", "flops_shares", "evaluations")
_OF_LAYER = ("n_heads", "top_k", "query_norm")  # keys of the config's model section


class DamagedError(ValueError):
    """A file of a run can't be believed: torn, or its checksum is not its own. Names the file and
    the remedy; whoever reads many runs takes it for that run's state, and goes on with the others.
    """

    def __init__(self, path: Path, why: str, remedy: str) -> None:
        super().__init__(f"{path} is damaged ({why}); {remedy}")
        self.path, self.why, self.remedy = path, why, remedy


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One finished run. FLOPs are training FLOPs, losses are nats per token."""

    run_id: str  # hash of the resolved config without paths, logging and trainer
    sweep: str
    status: str  # done | failed | diverged
    model: str  # the choice of conf/model
    seed: int
    budget: float  # FLOPs asked for
    n_layers: int
    d_model: int
    n_experts: int | None  # of the layer under study; None if it has none
    n_params: int
    n_active_params: int
    n_non_embedding_params: int
    flops_per_token: float  # training, 3x forward
    flops_shares: dict[str, float]  # term -> share of the FLOPs
    planned_flops: float
    n_steps: int
    batch_tokens: int
    n_tokens: int  # trained on, repeats included
    lr: float  # peak, of the backbone
    causal_eval: bool  # False: the evaluation lets positions see later ones (expert choice)
    achieved_flops: float | None = None
    epochs: float | None = None  # n_tokens over the corpus's tokens; None if streamed
    train_loss: float | None = None  # mean of the last tenth of the steps
    val_loss: float | None = None
    perplexity: float | None = None  # exp(val_loss), per token
    bits_per_byte: float | None = None
    bytes_per_token: float | None = None  # of the held-out text
    n_eval_tokens: int | None = None
    evaluations: dict[str, dict[str, Any]] = field(default_factory=dict)  # named set -> its results
    tokenizer_sha256: str | None = None
    train_digest: str | None = None  # of the training tokens; None if they were streamed
    usage: float | None = None  # share of experts with weight on the held-out set, mean of layers
    unevenness: float | None = None  # KL to uniform, nats, mean of layers
    wall_seconds: float | None = None  # the whole run: building, training, evaluation
    train_seconds: float | None = None
    tokens_per_second: float | None = None  # in training
    flops_per_second: float | None = None  # in training
    peak_flops_per_second: float | None = None  # measured: a square matrix product, same device
    mfu: float | None = None  # flops_per_second / peak_flops_per_second
    peak_memory_bytes: int | None = None
    error: str | None = None  # the traceback, if failed
    started: str | None = None  # ISO 8601, UTC
    environment: dict[str, Any] = field(default_factory=dict)  # versions, git, host, device
    config: dict[str, Any] = field(default_factory=dict)  # resolved
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"status={self.status!r} is not one of {', '.join(STATUSES)}")


def write_text_atomically(path: Path, text: str) -> None:
    """Writes under a temporary name in the same folder, then renames: whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_record(run_dir: Path, record: RunRecord) -> Path:
    """Writes run_dir/record.json and returns its path."""
    path = run_dir / RECORD_NAME
    write_text_atomically(path, json.dumps(asdict(record), indent=1) + "\n")
    return path


def read_record(path: Path) -> RunRecord:
    """Reads one record.json. Raises ValueError naming the file if it is not a record."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        known = {f.name for f in fields(RunRecord)}
        return RunRecord(**{k: v for k, v in values.items() if k in known})
    except (json.JSONDecodeError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is not a run record: {error}") from error


def flat_row(record: RunRecord) -> dict[str, Any]:
    """The record as a row of a table: its plain columns, then n_heads, top_k and query_norm of the
    layer under study (None if it has none), share.<term> of the FLOPs and <set>.<column> of every
    evaluation.
    """
    row = {name: value for name, value in asdict(record).items() if name not in _NESTED}
    layer = record.config.get("model") or {}
    row |= {name: layer.get(name) for name in _OF_LAYER}
    row |= {f"share.{term}": share for term, share in record.flops_shares.items()}
    for name, scores in record.evaluations.items():
        row |= {f"{name}.{column}": value for column, value in scores.items()}
    return row


def find_records(folder: Path) -> Iterator[Path]:
    """Every record.json below a folder, in order of path."""
    return iter(sorted(folder.rglob(RECORD_NAME)))


def is_finished(run_dir: Path) -> bool:
    """Whether the run in this folder needs no more work: done, or diverged as it would again."""
    path = run_dir / RECORD_NAME
    return path.exists() and read_record(path).status != "failed"
