"""How fast a layer could be: the bytes and products it can't do without, at rates measured here.

Counted (forward and backward): every retrieved row read where it is needed, a row that is needed
for its gradient once, gradients of distinct rows written once; the query's three products; the
forward product with the sub-keys. A half of a block has the residual stream too: x and the gradient
of y read, y and the gradient of x written, at the rate of a copy. Not counted: top-k, sorting,
norms, sparse gradients of the sub-keys, what is written between the stages. So the whole floor is
out of reach.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from experiments.benchmarks.core.rates import Rates
from experiments.benchmarks.core.shapes import Shape

Family = Literal["PEER", "PEER half", "PKM"]
FAMILIES: tuple[Family, ...] = ("PEER", "PEER half", "PKM")


@dataclass(frozen=True, kw_only=True)
class Floor:
    """Seconds of each part, with the bytes and FLOPs behind them."""

    name: str
    n_bytes: int
    query_flops: int
    keys_flops: int
    gathers: float
    query: float
    keys: float
    stream_bytes: int = 0  # of the residual stream, where it is part of the work
    stream: float = 0.0

    @property
    def total(self) -> float:
        """Seconds."""
        return self.gathers + self.stream + self.query + self.keys

    def describe(self) -> str:
        """Each addend, and the rate it stands for."""
        stream = (
            f"+ residual stream, {self.stream_bytes / 1e9:.3g} GB in {self.stream * 1e3:.4g} "
            if self.stream_bytes
            else ""
        )
        return (
            f"{self.name}: {self.total * 1e3:.4g} ms = "
            f"{self.n_bytes / 1e9:.3g} GB in {self.gathers * 1e3:.4g} {stream}"
            f"+ queries, {self.query_flops / 1e9:.3g} GFLOP in {self.query * 1e3:.4g} "
            f"({self.query_flops / 1e9 / self.query:,.0f} GFLOP/s) "
            f"+ keys, {self.keys_flops / 1e9:.3g} GFLOP in {self.keys * 1e3:.4g} "
            f"({self.keys_flops / 1e9 / self.keys:,.0f} GFLOP/s)"
        )

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "total": self.total}


def compute_floors(
    family: Family, shape: Shape, n_distinct: int, row_bytes: int, rates: Rates
) -> list[Floor]:
    """With the rate of square products, which is optimistic, and with that of the layer's own."""
    pairs, distinct = shape.n_pairs, n_distinct
    if family in ("PEER", "PEER half"):
        # forward: both tables; backward: w_down again for the input's gradient, w_up once a
        # distinct row for the weights'; and two gradients
        rows = 2 * pairs + pairs + distinct + 2 * distinct
    else:
        rows = pairs + distinct + distinct
    width = shape.n_heads * shape.d_key
    one = 2 * shape.n_tokens * shape.d_model * width  # of three alike
    keys = 2 * shape.n_tokens * width * shape.n_sub
    n_bytes = rows * row_bytes
    stream_bytes = 4 * shape.n_tokens * shape.d_model * 4 if family == "PEER half" else 0

    def floor(name: str, query: float, key_rate: float) -> Floor:
        return Floor(
            name=name,
            n_bytes=n_bytes,
            stream_bytes=stream_bytes,
            query_flops=3 * one,
            keys_flops=keys,
            gathers=n_bytes / rates.rows,
            stream=stream_bytes / rates.copy,
            query=query,
            keys=keys / key_rate,
        )

    return [
        floor("square-GEMM floor", 3 * one / rates.square, rates.square_keys),
        floor("own-shape floor", sum(one / rate for rate in rates.query), rates.keys),
    ]
