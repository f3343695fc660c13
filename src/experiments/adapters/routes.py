"""Which adapters a token gets: chosen by hand, by prototypes of the adapters, or by product keys.

A route gives each token rows of the tables (experts) and their gates. `shared` routes choose once,
at the first block that has an adapter, for all maps; the others choose at each map by its input.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from experiments.adapters.evidence import Evidence, Text, checked_memory
from experiments.adapters.lora_files import LoRA, LowRank
from experiments.kernels.ops import PLAIN, Execution, product_key_topk

BASE = 0  # the place in all tables that is empty: the base without an adapter


@dataclass(frozen=True, kw_only=True)
class Choice:
    """experts (T, J) int64, rows of every table, and gates (T, J) of any float type."""

    experts: Tensor
    gates: Tensor


@dataclass(frozen=True)
class Reading:
    """Tokens of a forward pass, how many positions were read before, and the mask that says
    which are padding (evidence.py).
    """

    text: Text | None = None
    n_read: int = 0
    mask: Any = None


class Route(Protocol):
    """shared: one choice for all maps. execution: by which kernels product keys are searched."""

    shared: bool = True
    execution: Execution = PLAIN

    def choose(self, x: Tensor, path: str, reading: Reading) -> Choice | None:
        """Of hidden states (batch, n, d) that enter the first block, or the map at `path`.

        None: the base alone.
        """
        ...

    def put(self, place: int, lora: LoRA | None, n_places: int) -> None:
        """Takes note of an adapter at a place, or with None of an empty one."""
        return  # most keep nothing of an adapter

    def describe(self) -> str:
        """In words."""
        ...


class Fixed(Route):
    """Same adapters for all tokens: gates by place. No place: the base."""

    def __init__(self, gates: Mapping[int, float], rank: int) -> None:
        self.gates, self.rank = dict(gates), rank

    def choose(self, x: Tensor, path: str, reading: Reading) -> Choice | None:
        if not self.gates:
            return None
        n = x.shape[0] * x.shape[1]
        places = torch.tensor(list(self.gates), device=x.device)
        gates = torch.tensor(list(self.gates.values()), dtype=torch.float64, device=x.device)
        experts, gates = with_components(places[None], gates[None], self.rank)
        return Choice(experts=experts.expand(n, -1), gates=gates.expand(n, -1))

    def put(self, place: int, lora: LoRA | None, n_places: int) -> None:
        self.gates.pop(place, None)

    def describe(self) -> str:
        return f"hand: {len(self.gates)} for all tokens" if self.gates else "hand: none"


class ByRow(Route):
    """One whole adapter for each sequence of a batch, all its tokens: places (batch,), of which
    BASE is the base alone.
    """

    def __init__(self, places: Tensor, rank: int) -> None:
        self.places, self.rank = places, rank

    def choose(self, x: Tensor, path: str, reading: Reading) -> Choice:
        """Raises ValueError for a batch of another size."""
        if len(x) != len(self.places):
            raise ValueError(
                f"a batch of {len(x)} sequences with adapters for {len(self.places)}: give "
                "use_rows a name for each sequence, and beams=k before a search by k beams"
            )
        places = self.places.to(x.device)[:, None].expand(x.shape[:2]).reshape(-1, 1)
        gates = torch.ones(places.shape, device=x.device)
        experts, gates = with_components(places, gates, self.rank)
        return Choice(experts=experts, gates=gates)

    def put(self, place: int, lora: LoRA | None, n_places: int) -> None:
        """Rows of a place that gets another adapter, or none, have the base."""
        self.places = self.places.masked_fill(self.places == place, BASE)

    def describe(self) -> str:
        return f"rows: {len(self.places)}"


class Given(Route):
    """One whole adapter a position, given from outside: places (batch, n). For comparisons."""

    def __init__(self, places: Tensor, rank: int) -> None:
        self.places, self.rank = places, rank

    def choose(self, x: Tensor, path: str, reading: Reading) -> Choice:
        places = self.places[..., : x.shape[1]].expand(x.shape[:2]).reshape(-1, 1).to(x.device)
        gates = torch.ones(places.shape, device=x.device)
        experts, gates = with_components(places, gates, self.rank)
        return Choice(experts=experts, gates=gates)

    def describe(self) -> str:
        return "position"


def with_components(places: Tensor, gates: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(T, k) adapters and gates to the (T, k * rank) rows of all their components."""
    components = torch.arange(rank, device=places.device)
    experts = (places[..., None] * rank + components).flatten(-2)
    return experts, gates.repeat_interleave(rank, dim=-1)


class Arrow(Route):
    """By prototypes that are made of the adapters alone (Ostapenko 2024, arXiv:2405.11157, §4.2).

    A map's prototype v of an adapter is the direction that it stretches most, the top right
    singular vector of its product. A token's score is |x . v|, and its gates the softmax of the
    top_k scores over the temperature. The base is chosen where there is no adapter. With memory
    above 1, x is the sum over the tokens so far (evidence.py); the paper's is 1.
    """

    shared = False

    def __init__(self, *, rank: int, top_k: int, temperature: float, memory: float = 1) -> None:
        self.rank, self.top_k, self.temperature = rank, top_k, temperature
        self.memory = checked_memory(memory)
        self._evidence: dict[str, Evidence] = {}
        self._prototypes: dict[str, Tensor] = {}  # (n_places, d_in)
        self._used = torch.zeros(0, dtype=torch.bool)

    def choose(self, x: Tensor, path: str, reading: Reading) -> Choice | None:
        if not self._used.any():
            return None
        evidence = self._evidence.setdefault(path, Evidence(self.memory))
        seen = evidence.sums(x.float(), reading.text, reading.n_read, reading.mask).flatten(0, 1)
        used = self._used.to(x.device)
        scores = (seen @ self._prototypes[path].to(seen).T).abs()
        scores = scores.masked_fill(~used, -math.inf)
        top, places = scores.topk(min(self.top_k, int(used.sum())), dim=-1)
        gates = (top / self.temperature).softmax(-1)
        experts, gates = with_components(places, gates, self.rank)
        return Choice(experts=experts, gates=gates)

    def put(self, place: int, lora: LoRA | None, n_places: int) -> None:
        self._used = _extended(self._used, n_places)
        self._used[place] = lora is not None
        maps = {} if lora is None else lora.maps
        for path in {*self._prototypes, *maps}:
            d_in = maps[path].shape[0] if path in maps else self._prototypes[path].shape[1]
            old = self._prototypes.get(path, torch.zeros(0, d_in))
            self._prototypes[path] = _extended(old, n_places)
            self._prototypes[path][place] = top_direction(maps[path]) if path in maps else 0

    def describe(self) -> str:
        return f"Arrow: {self.top_k} a token, temperature {self.temperature:g}"


def top_direction(low_rank: LowRank) -> Tensor:
    """(d_in,) the top right singular vector of an adapter's (d_out, d_in) product."""
    down, up = low_rank.down.double(), low_rank.up.double()
    basis, inner = torch.linalg.qr(down.T)
    _, outer = torch.linalg.qr(up.T)
    _, _, right = torch.linalg.svd(outer @ inner.T)
    return (basis @ right[0]).float()


class ProductKeys(Route):
    """PEER's retrieval: the first sub-key is an adapter's, the second its component's.

    The query's first half is what the tokens so far say (evidence.py) at the first block that has
    an adapter: the sum of their hidden states, and a last entry of 1 a token for a key's constant.
    Its second half is the same. The base has a key too, of zeros. Gates are the softmax of the
    retrieved scores over the temperature, times the rank: an adapter whose components have equal
    keys gets one gate.

    keys (n, d + 1) of the adapters at places (n,), the base's first; one without a key is never
    retrieved. component_keys (rank, d + 1), zeros: all components of an adapter come together.
    prototypes.py finds the keys.
    """

    def __init__(
        self, d_model: int, *, rank: int, top_k: int, memory: float, temperature: float = 1.0
    ) -> None:
        check_top_k(top_k, temperature)
        self.rank, self.top_k, self.temperature = rank, top_k, temperature
        self.memory = checked_memory(memory)
        self.keys = torch.zeros(1, d_model + 1)
        self.places = torch.tensor([BASE])
        self.component_keys = torch.zeros(rank, d_model + 1)
        self._evidence = Evidence(memory)

    def choose(self, x: Tensor, path: str, reading: Reading) -> Choice:
        said = self.said(x, reading).flatten(0, 1)
        queries = torch.cat([said, said], dim=-1)[:, None]
        sub_keys = torch.cat([self.keys, self.component_keys.to(self.keys)]).to(said)
        n = len(self.keys)
        k = min(self.top_k, n) * self.rank
        scores, pairs = product_key_topk(queries, sub_keys, k, self.execution, n)
        gates = (scores[:, 0] / self.temperature).softmax(-1) * self.rank
        places = self.places.to(x.device)[pairs[:, 0] // self.rank]
        return Choice(experts=places * self.rank + pairs[:, 0] % self.rank, gates=gates)

    def said(self, x: Tensor, reading: Reading) -> Tensor:
        """(batch, n, d + 1) float32: the evidence of hidden states (batch, n, d)."""
        x = x.float()
        x = torch.cat([x, torch.ones_like(x[..., :1])], dim=-1)
        return self._evidence.sums(x, reading.text, reading.n_read, reading.mask)

    def put(self, place: int, lora: LoRA | None, n_places: int) -> None:
        self.set_key(place, None)

    def describe(self) -> str:
        return (
            f"product keys: {self.top_k} a token, evidence of {self.memory:g} tokens, temperature "
            f"{self.temperature:g}"
        )

    def key(self, place: int) -> Tensor | None:
        """(d + 1,) of the adapter at a place; None: it has none."""
        (found,) = torch.nonzero(self.places == place, as_tuple=True)
        return self.keys[found[0]] if len(found) else None

    def set_key(self, place: int, key: Tensor | None) -> None:
        """(d + 1,) of the adapter at a place; None: it is not retrieved."""
        others = self.places != place
        keys, places = self.keys[others], self.places[others]
        if key is not None:
            keys = torch.cat([keys, key[None].to(keys)])
            places = torch.cat([places, torch.tensor([place])])
        self.keys, self.places = keys, places


def _extended(tensor: Tensor, n: int) -> Tensor:
    """Along the first dimension, by zeros."""
    if len(tensor) >= n:
        return tensor
    return torch.cat([tensor, tensor.new_zeros(n - len(tensor), *tensor.shape[1:])])


def check_top_k(top_k: int, temperature: float) -> None:
    """Raises ValueError for what no softmax over the best can have."""
    if top_k < 1:
        raise ValueError(f"top_k={top_k} must be at least 1 adapter a token")
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature={temperature} must be above 0, and finite")
