"""A sweep's runs as one CSV, in the columns and units of the tables that other projects publish."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.records import RunRecord, flat_row


@dataclass(frozen=True, kw_only=True)
class Column:
    """unit: "" of a text or a plain count; of: its value of a run, None where it has none."""

    name: str
    unit: str
    meaning: str
    of: Callable[[RunRecord], Any]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The columns of a project's table, in its order; needs: a field that each run must have."""

    project: str
    columns: tuple[Column, ...]
    needs: str


def _field(name: str) -> Callable[[RunRecord], Any]:
    return lambda record: flat_row(record)[name]


def _unknown(_: RunRecord) -> None:
    """Their count, which ours does not make."""


def corpus_of(record: RunRecord) -> str:
    """The name of the corpus; "" where the record has none."""
    corpus = record.config.get("data", {}).get("corpus", {})
    kind = str(corpus.get("_target_", "")).rpartition(".")[2]
    return "/".join(str(part) for part in (kind, corpus.get("path"), corpus.get("domain")) if part)


_LAYER = ("n_experts", "n_heads", "top_k", "query_norm")


def _condition(record: RunRecord) -> str:
    """The settings of the layer under study: "n_experts=64 top_k=1"."""
    row = flat_row(record)
    return " ".join(f"{name}={row[name]}" for name in _LAYER if row[name] is not None)


def _experiment(record: RunRecord) -> str:
    return "__".join((record.sweep, corpus_of(record), record.model))


_MODEL = Column(name="model", unit="", meaning="the feed-forward layer", of=_field("model"))
_OURS = (  # behind theirs: what our analysis tells runs apart by
    Column(
        name="n_active_params",
        unit="parameters",
        meaning="that a token uses, embeddings included",
        of=_field("n_active_params"),
    ),
    Column(name="n_experts", unit="", meaning="of the layer; empty: none", of=_field("n_experts")),
    Column(name="n_heads", unit="", meaning="of its retrieval", of=_field("n_heads")),
    Column(name="top_k", unit="", meaning="experts of a head", of=_field("top_k")),
    Column(name="query_norm", unit="", meaning="norm of its queries", of=_field("query_norm")),
    Column(name="seed", unit="", meaning="of weights and data order", of=_field("seed")),
    Column(name="lr", unit="", meaning="peak learning rate of the backbone", of=_field("lr")),
    Column(name="run_id", unit="", meaning="hash of the run's settings", of=_field("run_id")),
)
_OPEN_ATHENA = (  # open-athena/isoflop-experiments on the Hugging Face hub
    Column(name="source", unit="", meaning="the sweep", of=_field("sweep")),
    Column(name="dataset", unit="", meaning="the training corpus", of=corpus_of),
    _MODEL,
    Column(name="condition", unit="", meaning="settings of the layer", of=_condition),
    Column(name="experiment", unit="", meaning="source, dataset and model", of=_experiment),
    Column(
        name="tokens",
        unit="tokens",
        meaning="trained on, repeats included",
        of=_field("n_tokens"),
    ),
    Column(
        name="params",
        unit="parameters",
        meaning="all, embeddings included",
        of=_field("n_params"),
    ),
    Column(name="budget", unit="FLOPs", meaning="of training, as planned", of=_field("budget")),
    Column(name="loss", unit="nats/token", meaning="held-out", of=_field("val_loss")),
)
_NANOCHAT = (  # results.csv of karpathy/nanochat's runs/scaling_laws.sh
    Column(
        name="flops_budget", unit="FLOPs", meaning="of training, as planned", of=_field("budget")
    ),
    Column(name="depth", unit="", meaning="blocks", of=_field("n_layers")),
    Column(name="model_dim", unit="", meaning="width", of=_field("d_model")),
    *(
        Column(name=name, unit="parameters", meaning="not counted apart: empty", of=_unknown)
        for name in ("params_wte", "params_value_embeds", "params_lm_head")
    ),
    Column(
        name="params_transformer",
        unit="parameters",
        meaning="without embedding and untied head",
        of=_field("n_non_embedding_params"),
    ),
    Column(
        name="params_scalars",
        unit="parameters",
        meaning="not counted apart: empty",
        of=_unknown,
    ),
    Column(
        name="params_total",
        unit="parameters",
        meaning="all, embeddings included",
        of=_field("n_params"),
    ),
    Column(name="num_iterations", unit="steps", meaning="of training", of=_field("n_steps")),
    Column(
        name="tokens_trained",
        unit="tokens",
        meaning="trained on, repeats included",
        of=_field("n_tokens"),
    ),
    Column(name="val_bpb", unit="bits/byte", meaning="held-out", of=_field("bits_per_byte")),
    Column(name="core_score", unit="", meaning="not measured: empty", of=_unknown),
    Column(
        name="train_time_sec",
        unit="seconds",
        meaning="of training, in the process that finished the run",
        of=_field("train_seconds"),
    ),
    _MODEL,
)
LAYOUTS: Mapping[str, Layout] = {
    "open-athena": Layout(
        project="open-athena/isoflop-experiments", columns=(*_OPEN_ATHENA, *_OURS), needs="val_loss"
    ),
    "nanochat": Layout(
        project="karpathy/nanochat", columns=(*_NANOCHAT, *_OURS), needs="bits_per_byte"
    ),
}


def rows_as(layout: Layout, records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """A row a run that is done. Raises ValueError if there is none, or one lacks its loss."""
    done = [record for record in records if record.status == "done"]
    if not done:
        raise ValueError("no run is done yet; see python -m experiments.status")
    for record in done:
        if getattr(record, layout.needs) is None:
            raise ValueError(
                f"run {record.run_id} has no {layout.needs}, which a table as {layout.project} "
                "needs; write it in another form, or train the run again"
            )
    return [{column.name: column.of(record) for column in layout.columns} for record in done]
