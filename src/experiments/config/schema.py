"""Shape of conf/, as frozen dataclasses: what run.py reads a composed Hydra config into.

Strict on purpose: an unknown key, a missing one or a wrong type is a ValueError naming it,
wherever it came from (`+typo=1` passes Hydra's own check). A new field is declared by
fields.added: at its default it then leaves the ids of runs as they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from experiments.budget.costs import FFNConfig
from experiments.config.constraints import (
    AtLeast0,
    AtLeast1,
    BelowOne,
    Fraction,
    KernelName,
    ModelName,
    NotNegative,
    Path,
    Processes,
    Seed,
    Sha256,
    SweepName,
    TagName,
    WandbName,
    Within,
    check_once,
    shown,
)
from experiments.config.debug import Debug
from experiments.config.effects import Above, Drawn, If, Is, Through
from experiments.config.fields import added, used
from experiments.config.optim import LearningRate, Optim
from experiments.config.trainer import Cluster, Trainer

# what each part of a trunk that a `_target_` names must be able to do: attention.AttentionConfig,
# norm.NormConfig, positions.Positions and residual.Residual
OF_TRUNK: Mapping[str, tuple[str, ...]] = {
    "attention": ("terms", "build"),
    "norm": ("build", "n_params"),
    "positions": ("angles", "bias"),
    "residual": ("attention_half", "ffn_half"),
}


def _leaves_blocks(trunk: "Trunk") -> bool:
    return trunk.ffn_blocks != "all" or trunk.beside


def _have_a_path(init: "Init") -> bool:
    return hasattr(init.weights, "path")


def _is_read(data: "Data") -> bool:
    """Whether the corpus, or a part of it, is at the path."""
    return data.path is None or repr(data.path) in repr(data.corpus)


def _keeps(run: "RunConfig") -> bool:
    """Whether any way to keep what the model knew is asked for."""
    kept = run.continual
    return kept is not None and bool(kept.replay or kept.top_rows or kept.distil or kept.l2)


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """A family of sizes: the width for a number of blocks, and the settings that go with it.

    d_model = d_per_layer * size, or a width of its own. batch_size counts sequences of seq_len
    tokens. lr is the peak learning rate at width lr_d_model; Optim says how it scales with width.
    """

    name: str = used(Through("ladder_model"))
    d_per_layer: AtLeast1 | None
    d_head: AtLeast1
    tie_head: bool
    vocab_size: AtLeast1 = used(Through("data.tokenizer.vocab_size"))
    seq_len: AtLeast1 = used(Through("data.seq_len"))
    batch_size: AtLeast1
    lr: LearningRate = used(Through("optim.lr"))
    lr_d_model: AtLeast1 = used(Through("optim.lr_d_model"))
    d_model: AtLeast1 | None = added(None)

    def __post_init__(self) -> None:
        if (self.d_per_layer is None) == (self.d_model is None):
            raise ValueError(
                f"d_model={shown(self.d_model)} and ladder.d_per_layer={shown(self.d_per_layer)}: "
                "one of them says the width, and the other is null"
            )

    def width(self, size: int) -> int:
        """d_model of a model of `size` blocks."""
        return self.d_model or (self.d_per_layer or 0) * size  # one of them is set


@dataclass(frozen=True, kw_only=True)
class Trunk:
    """Blocks with the layer under study (middle | all | [i, ...]), and the others' layer:
    one for all, or a list of one for each block. The rest: models.transformer.TransformerConfig.

    beside: the blocks under study hold both layers, from the first step on; what they write is
    added up (models/ffn/beside.py).
    """

    ffn_blocks: Any
    base_ffn: Any = used(
        If(_leaves_blocks, "with trunk.ffn_blocks=all; set trunk.ffn_blocks=middle")
    )
    positions: Any
    norm: Any
    attention: Any
    residual: Any
    beside: bool = added(False, Drawn())  # weights to start from have init.how=beside

    def __post_init__(self) -> None:
        blocks = self.ffn_blocks
        given = f"ffn_blocks={shown(blocks)}"
        if blocks in ("middle", "all"):
            return
        if not isinstance(blocks, (list, tuple)) or any(type(i) is not int for i in blocks):
            raise ValueError(f"{given} is not middle, all or a list of blocks, as [0,2]")
        check_once(blocks, given)
        # which blocks there are is the size's to say: models.transformer.place


@dataclass(frozen=True, kw_only=True)
class Init:
    """Weights that a run starts from, and what becomes of them (init/start.py).

    weights: what reads them; its path is their place. sha256: of what they are, filled in when they
    are found (init/completion.py).
    how: what the chosen blocks hold; a file of init/how each. keep: the weights' own layer. beside:
    it, and the layer under study with outputs of zero. copies: the same, its experts seeded from
    the layer's neurons, with `noise` of their size. replace: the layer under study instead, seeded
    from the neurons, and then distilled on distil_tokens at the rate distil_lr. upcycle: experts
    that are copies of the layer, with the share `reinit` of each random again. bias: the weights'
    own layer with more experts, which are let in over the share `anneal` of the steps; copies does
    so where the block holds experts (init/growth).
    train: layer: that of the chosen blocks alone | tables: its tables alone, so that what is
    retrieved stays | all | lora: adapters of lora_rank in all blocks.
    """

    weights: Any
    path: Path | None = used(
        If(_have_a_path, "with init=smollm2, which is a package's; set init=hf"), idle=None
    )
    sha256: Sha256 | None
    how: str
    train: Literal["layer", "tables", "all", "lora"]
    noise: NotNegative = used(Is("how", "copies", "bias"), idle=0.1)
    reinit: Fraction = used(Is("how", "upcycle"), idle=0.0)
    distil_tokens: AtLeast0 = used(Is("how", "replace"), idle=0)
    distil_lr: LearningRate = used(Is("how", "replace"), Above("distil_tokens"), idle=3e-4)
    lora_rank: AtLeast1 = used(Is("train", "lora"), idle=8)
    anneal: Fraction = added(0.2, Is("how", "bias"))

    def __post_init__(self) -> None:
        if self.train == "lora" and self.how != "keep":
            raise ValueError(
                f"train=lora with init.how={self.how}: low-rank adapters are added to the weights "
                "as they are; set init.how=keep"
            )


@dataclass(frozen=True, kw_only=True)
class Continual:
    """How a run keeps what it knew while it learns (points/parts/keeping.py). All may be combined.

    replay: the share of windows that are of the stream's base corpus. top_rows: of each table, how
    many rows a step may change: those of highest row_score, a file of points/row_scores each, which
    may look at counts of background_steps batches of the base corpus (Lin 2025, arXiv:2510.15103).
    distil: the weight of KL(model at the start || model), nats a token. l2: of half the squared
    distance to the weights at the start.
    """

    replay: BelowOne
    top_rows: AtLeast1 | None
    background_steps: AtLeast1 = used(Above("top_rows"), idle=64)
    distil: NotNegative
    l2: NotNegative
    row_score: str = added("tf_idf", Above("top_rows"))


@dataclass(frozen=True, kw_only=True)
class Data:
    """A corpus, its tokenizer, how it is packed or streamed, and the held-out n_eval_tokens.

    path is the place of such a corpus. The content is part of the identity; the place is not.
    skip_steps: batches of the seed's order that are left out at its beginning, because the run that
    this one goes on from has seen them.
    """

    corpus: Any
    tokenizer: Any
    path: Path | None = used(
        If(_is_read, "with this corpus, which has none; set data=local or c4"),
        idle=None,
        default=None,
    )
    seq_len: AtLeast1
    n_eval_tokens: AtLeast1
    max_train_tokens: AtLeast1 | None = used(Is("streaming", False), idle=None)
    max_validation_tokens: AtLeast1 | None
    mask_documents: bool
    streaming: bool
    stream_lanes: Processes = used(Is("streaming", True), idle=4)
    stream_shuffle: Annotated[int, Within(1, 10**7)] = used(Is("streaming", True), idle=256)
    skip_steps: Annotated[int, Within(0, 10**7)] = added(0)


@dataclass(frozen=True, kw_only=True)
class EvalSet:
    """A named set to score: splits of a corpus, null being the run's own.

    max_tokens: tokenize no more of a split than this.
    """

    corpus: Any
    splits: tuple[str, ...]
    max_tokens: AtLeast1 | None = None

    def __post_init__(self) -> None:
        given = f"splits={list(self.splits)}"
        if not self.splits:
            raise ValueError(f"{given} must name a split, as [validation]")
        check_once(self.splits, given)


@dataclass(frozen=True, kw_only=True)
class EvaluationRule:
    """How sets are scored: windows of data.seq_len tokens, `stride` targets each (null: all)."""

    stride: AtLeast1 | None
    max_tokens: AtLeast1 | None
    batch_size: AtLeast1 | None


@dataclass(frozen=True, kw_only=True)
class Logger:
    """wandb: auto (online with a key and a network, else offline) | online | offline | disabled.

    tools: other tools that show the curves, by name (training/trackers).
    """

    wandb: Literal["auto", "online", "offline", "disabled"]
    project: WandbName
    entity: WandbName | None
    log_every_n_steps: AtLeast1
    tools: Mapping[str, Any] | None = added(None)


@dataclass(frozen=True, kw_only=True)
class Paths:
    """results/<sweep>/<run_id> and the data cache; relative to the working directory."""

    results: Path
    cache: Path


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One point: every setting of `python -m experiments.run`.

    kernel: what reads expert tables (kernels/select.py). budget in training FLOPs; size in blocks;
    n_experts as the model resolved it, None if it has none. debug: the run is to look at, and no
    result. tags: what a person calls it by, in its record and in the tools that show it. What has a
    `_target_` (model, optim, trunk.base_ffn, data.corpus, data.tokenizer, the corpora of eval,
    parts) is built from it.
    """

    model_name: ModelName
    model: FFNConfig
    n_experts: AtLeast1 | None
    size: Annotated[int, Within(1, 10_000, why=" blocks")]
    budget: Annotated[float, Within(0, 1e30, above=True, why=" FLOPs")]
    seed: Seed
    sweep: SweepName
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
    init: Init | None = added(None)
    continual: Continual | None = added(None, If(_keeps, "without a way to keep"), varies=True)
    parts: Mapping[str, Any] | None = added(None)
    cluster: Cluster | None = None  # the cards to plan for; None: this machine
    verbose: bool = False  # of a plan; records from before it have none
    debug: Debug | None = added(None)
    tags: tuple[TagName, ...] = ()  # words of one's own; no part of the identity

    def __post_init__(self) -> None:
        check_once(self.tags, f"tags={list(self.tags)}")

    @property
    def d_model(self) -> int:
        """Width."""
        return self.ladder.width(self.size)
