"""Where and how fast a run is computed: conf/trainer, and the cards to plan for, conf/cluster.

Standard library only, as the commands that read an accelerator's name need no more.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from experiments.config.constraints import (
    AtLeast1,
    Matches,
    NotNegative,
    Processes,
    Within,
    check_once,
)
from experiments.config.effects import If, OfResult
from experiments.config.fields import used

CompileChoice = Literal["auto", True, False]
TrunkChoice = Literal["auto", "eager", "fused"]
StrategyChoice = Literal["ddp", "fsdp"]
Rate = Annotated[float, Within(1, 1e25)]
CardName = Annotated[str, Matches(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,60}", "a name, as H100")]


def _are_several(trainer: "Trainer") -> bool:
    return trainer.devices * trainer.num_nodes > 1


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """Where and how fast a run is computed; no part of its identity, with one exception.

    devices of each of num_nodes nodes train one run together, a process each (DDP).
    micro_batch_size: sequences of a process's forward pass, whose gradients add up to the step's;
    null for all at once. Expert choice and the balance loss see the tokens of one forward pass,
    batch norm those of all processes' at once: how many is part of such a run's identity
    (identity.mixed_sequences).
    n_threads: CPU threads, null for all that the process may use. n_loader_workers: processes that
    make batches, null for none where tokens are packed and two where they are streamed.
    flops_per_second: the rate of a device that estimates assume, null to measure this machine's or
    to take a share of the cluster's.
    max_retries: how often a point whose process was killed, or that ran into its time limit, is
    tried again from the same checkpoint (requeue.py). stall_minutes: a run that makes no step for
    so long while it trains is ended, and tried again likewise; null for no limit.
    compile: whether torch.compile makes the trunk for training; auto: where that pays
    (training/compiled.py).
    trunk: how the trunk is computed on a CPU: fused, by operators of ours; eager, as it is written;
    auto: what can be is fused (training/trunk.py).
    recompute: whether those halves of blocks that can run twice run again in the backward pass, so
    that their inputs alone are kept (models/recomputed.py).
    strategy: how the processes of a run share all but tables; fsdp is refused, with the reason
    (planning.py).
    stop_hopeless: nats; a run ends early where its training loss can't come within so many of the
    best finished run of its cell (training/hopeless.py); null: never.
    table_ranks: how many processes have the columns of each expert table between them: null: none,
    each has all of them, as DDP does; all: those that train the run; or a number, which has to
    divide theirs, and then there are groups of so many (points/parts/table_columns.py).
    keep_at: shares of a run's steps after each of which the checkpoint is kept too, as
    step-<n>.ckpt; a trunk keeps those of its branches alone.
    deterministic: whether training on a GPU repeats to the bit (training/deterministic.py); on a
    CPU it does in any case.
    """

    accelerator: str
    precision: str
    devices: Processes
    num_nodes: Processes
    micro_batch_size: AtLeast1 | None
    n_threads: Processes | None
    flops_per_second: Annotated[float, Within(1, 1e25)] | None
    n_loader_workers: Annotated[int, Within(0, 1024)] | None
    checkpoint_minutes: Annotated[float, Within(0, 1e6)]  # 0: after each step
    log_every_seconds: NotNegative
    # defaults: of manifests from before there was a choice
    max_retries: Annotated[int, Within(0, 1000)] = 2
    stall_minutes: Annotated[float, Within(0, 1e6, above=True)] | None = 20.0
    stop_hopeless: NotNegative | None = None
    compile: CompileChoice = False
    deterministic: bool = True
    trunk: TrunkChoice = "eager"
    table_ranks: Processes | Literal["all"] | None = used(
        If(_are_several, "with one process; raise trainer.devices or trainer.num_nodes"),
        idle=None,
        default=None,
    )
    recompute: bool = False
    strategy: StrategyChoice = "ddp"
    keep_at: tuple[Annotated[float, Within(0, 1, above=True, below=True)], ...] = used(
        OfResult("which keeps those that its branches start from"), idle=(), default=()
    )

    def __post_init__(self) -> None:
        check_once(self.keep_at, "keep_at")


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A cluster's cards, of one kind.

    card: a part of the name that the driver gives it ("NVIDIA H100 80GB HBM3"). memory_gib: of one
    card, GiB, as torch sees it. bf16_flops and float32_flops: of matrix products, FLOP/s at
    most, not with sparsity and not in TF32, which no run uses; null where a card computes no
    bfloat16. bandwidth: of its memory, bytes/s at most.
    node_exchange, node_ring, network_exchange, network_ring: what it sends to other cards, bytes/s
    (budget/communication.Links); null: not known to us, and no time of it is said.
    """

    card: CardName
    memory_gib: Annotated[float, Within(0, 1e6, above=True, why=" GiB")]
    bf16_flops: Rate | None
    float32_flops: Rate
    bandwidth: Rate
    cards_per_node: Processes
    node_exchange: Rate | None = None
    node_ring: Rate | None = None
    network_exchange: Rate | None = None
    network_ring: Rate | None = None

    @property
    def memory(self) -> int:
        """Bytes of one card."""
        return int(self.memory_gib * 2**30)

    def describe(self) -> str:
        """Card in a few words."""
        return f"{self.card} of {self.memory_gib:g} GiB"


def spelled(accelerator: str) -> str:
    """An accelerator's one name: `gpu`, as Lightning's users type it, is cuda."""
    return "cuda" if accelerator == "gpu" else accelerator
