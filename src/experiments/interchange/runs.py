"""A sweep's runs as one CSV, in the columns and units of the tables that other projects publish."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from experiments.records.record import RunRecord, flat_row, layer_settings


@dataclass(frozen=True, kw_only=True)
class Column:
    """unit: "" of a text or a plain count; of: its value of a run, None where it has none."""

    name: str
    unit: str
    meaning: str
    of: Callable[[RunRecord], Any]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Columns of a project's table, in its order; needs: a field that each run must have."""

    project: str
    columns: tuple[Column, ...]
    needs: str


def _column(
    name: str, unit: str, meaning: str, of: str | Callable[[RunRecord], Any] | None = None
) -> Column:
    """of: a field of a run's row, of the column's own name unless given, or what makes it."""
    if not callable(of):
        field = of or name
        return Column(name=name, unit=unit, meaning=meaning, of=lambda run: flat_row(run)[field])
    return Column(name=name, unit=unit, meaning=meaning, of=of)


def _unknown(_: RunRecord) -> None:
    """Their count, which ours does not make."""


def describe_corpus(record: RunRecord) -> str:
    """Name of the corpus; "" where the record has none."""
    corpus = record.config.get("data", {}).get("corpus", {})
    kind = str(corpus.get("_target_", "")).rpartition(".")[2]
    return "/".join(str(part) for part in (kind, corpus.get("path"), corpus.get("domain")) if part)


def _layer(record: RunRecord) -> dict[str, Any]:
    return {"n_experts": record.n_experts, **layer_settings(record)}


def _condition(record: RunRecord) -> str:
    """Settings of the layer under study: "n_experts=64 top_k=1"."""
    return " ".join(f"{k}={value}" for k, value in _layer(record).items() if value is not None)


def _experiment(record: RunRecord) -> str:
    return "__".join((record.sweep, describe_corpus(record), record.model))


_MODEL = _column("model", "", "the feed-forward layer")
_OURS = (  # behind theirs: what our analysis tells runs apart by
    _column("n_active_params", "parameters", "that a token uses, embeddings included"),
    _column("n_experts", "", "of the layer; empty: none"),
    _column("seed", "", "of weights and data order"),
    _column("lr", "", "peak learning rate of the backbone"),
    _column("run_id", "", "hash of the run's settings"),
)
_OPEN_ATHENA = (  # open-athena/isoflop-experiments on the Hugging Face hub
    _column("source", "", "the sweep", "sweep"),
    _column("dataset", "", "the training corpus", describe_corpus),
    _MODEL,
    _column("condition", "", "settings of the layer", _condition),
    _column("experiment", "", "source, dataset and model", _experiment),
    _column("tokens", "tokens", "trained on, repeats included", "n_tokens"),
    _column("params", "parameters", "all, embeddings included", "n_params"),
    _column("budget", "FLOPs", "of training, as planned"),
    _column("loss", "nats/token", "held-out", "val_loss"),
)
_NANOCHAT = (  # results.csv of karpathy/nanochat's runs/scaling_laws.sh
    _column("flops_budget", "FLOPs", "of training, as planned", "budget"),
    _column("depth", "", "blocks", "n_layers"),
    _column("model_dim", "", "width", "d_model"),
    *(
        _column(name, "parameters", "not counted apart: empty", _unknown)
        for name in ("params_wte", "params_value_embeds", "params_lm_head")
    ),
    _column(
        "params_transformer",
        "parameters",
        "without embedding and untied head",
        "n_non_embedding_params",
    ),
    _column("params_scalars", "parameters", "not counted apart: empty", _unknown),
    _column("params_total", "parameters", "all, embeddings included", "n_params"),
    _column("num_iterations", "steps", "of training", "n_steps"),
    _column("tokens_trained", "tokens", "trained on, repeats included", "n_tokens"),
    _column("val_bpb", "bits/byte", "held-out", "bits_per_byte"),
    _column("core_score", "", "not measured: empty", _unknown),
    _column(
        "train_time_sec",
        "seconds",
        "of training, in the process that finished the run",
        "train_seconds",
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


def of_runs(layout: Layout, records: Sequence[RunRecord]) -> Layout:
    """Layout, with a column for each setting that a layer of these runs has."""
    names = dict.fromkeys(name for record in records for name in layer_settings(record))

    def column(name: str) -> Column:
        def of(record: RunRecord) -> Any:
            return layer_settings(record).get(name)

        return _column(f"layer.{name}", "", "a setting of the layer; empty: it has none", of)

    return replace(layout, columns=(*layout.columns, *map(column, names)))


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
    columns = of_runs(layout, done).columns
    return [{column.name: column.of(record) for column in columns} for record in done]
