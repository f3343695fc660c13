"""Cost of each way to choose adapters, in nats/token, on each adapter's text and on others.

base        no adapter
own         the adapter of the text's domain, which an oracle names; in mixed text, of each half
uniform     the mean of all
arrow       prototypes made of the adapters alone (routes.Arrow)
token, n    keys in closed form (prototypes.py); evidence of one token, or of about n
learned     those of n, trained on next-token loss
single      one adapter for all texts, which was trained on all domains
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from experiments.adapters.library import LoRALibrary
from experiments.adapters.lora_files import LoRA
from experiments.adapters.prototypes import add_text, by_text, learn, next_token_loss
from experiments.adapters.routes import BASE, Given, ProductKeys, Route
from experiments.init.slots import evaluating

_BATCH = 4  # windows at once


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Windows of token ids (n, seq). fit: by name of each adapter, for its key; held_out: to be
    scored, by name of each adapter and of unseen domains; background: for the base's key.
    """

    fit: Mapping[str, Tensor]
    held_out: Mapping[str, Tensor]
    background: Tensor


@dataclass(frozen=True, kw_only=True)
class Settings:
    """memories: of the evidence, in tokens. top_k: adapters a token, of keys; arrow's are the
    paper's 3 and temperature 1. n_steps, lr: of the learned keys.
    """

    memories: Sequence[float] = (1, 16, 64, 256)
    learned_from: float = 64
    top_k: int = 2
    arrow_top_k: int = 3
    n_steps: int = 60
    lr: float = 0.005
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """losses: way -> text -> nats/token. chosen: way -> text -> adapter -> its mean gate. later:
    of an adapter that came when the library was in use, the losses of `with` and `without` it.
    """

    losses: dict[str, dict[str, float]]
    chosen: dict[str, dict[str, dict[str, float]]]
    later: dict[str, Any] = field(default_factory=dict)


def compare(
    library: LoRALibrary,
    model: nn.Module,
    texts: Texts,
    settings: Settings,
    *,
    later: str | None = None,
    single: LoRA | None = None,
    progress: Callable[[str], None] = lambda what: None,
) -> Comparison:
    """Scores all ways. later: an adapter of the library that is taken out, and put back at the end.
    single: one that was trained on all domains, to be scored too.

    The library is attached to the model and has adapters of the names of texts.fit.
    """
    kept = None if later is None else library.adapter(later)
    if later is not None:
        library.remove(later)
    names = list(library.names)
    held_out = {name: windows for name, windows in texts.held_out.items() if name != later}
    mixed, halves = _mixed([held_out[name] for name in names])
    held_out["mixed"] = mixed
    scorer = _Scorer(library, model, progress)
    if single is not None:
        library.use(library.add(single, "single"))
        scorer.score("single", None, held_out)
        library.remove("single")
    for way, route in _ways(library, texts, names, settings):
        scorer.score(way, route, held_out)
    for name in names:
        library.use(name)
        scorer.score("own", None, {name: held_out[name]})
    places = torch.tensor([library.places[name] for name in names])[halves]
    half = mixed.shape[1] // 2
    given = torch.stack([places[:, 0], places[:, 1]], 1).repeat_interleave(half, 1)
    scorer.score_mixed("own", mixed, given)
    found: dict[str, Any] = {}
    if later is not None and kept is not None:
        found = _later(library, model, texts, settings, later, kept, progress)
    return Comparison(losses=scorer.losses, chosen=scorer.chosen, later=found)


def _ways(
    library: LoRALibrary, texts: Texts, names: Sequence[str], settings: Settings
) -> Iterator[tuple[str, Route]]:
    fit = {name: texts.fit[name] for name in names}
    library.use()
    yield "base", library.route
    library.mix()
    yield "uniform", library.route
    library.arrow(top_k=settings.arrow_top_k)
    yield "arrow", library.route
    for memory in settings.memories:
        route = by_text(library, fit, texts.background, top_k=settings.top_k, memory=memory)
        yield _named(memory), route
    by_text(library, fit, texts.background, top_k=settings.top_k, memory=settings.learned_from)
    windows = torch.cat([*fit.values(), texts.background])
    learn(library, windows, n_steps=settings.n_steps, lr=settings.lr, seed=settings.seed)
    yield "learned", library.route


def _named(memory: float) -> str:
    return "token" if memory == 1 else f"{memory:g} tokens"


def _mixed(texts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Windows whose first half is of one domain and whose second is of the next, (n, seq), and
    which domains these are, (n, 2).
    """
    half = texts[0].shape[1] // 2
    windows, domains = [], []
    for i in range(len(texts)):
        j = (i + 1) % len(texts)
        n = min(2, len(texts[i]), len(texts[j]))
        windows.append(torch.cat([texts[i][:n, :half], texts[j][:n, :half]], dim=1))
        domains.append(torch.tensor([[i, j]] * n))
    return torch.cat(windows), torch.cat(domains)


class _Scorer:
    """Collects losses, and what was chosen, way by way."""

    def __init__(
        self, library: LoRALibrary, model: nn.Module, progress: Callable[[str], None]
    ) -> None:
        self.library, self.model, self.progress = library, model, progress
        self.losses: dict[str, dict[str, float]] = {}
        self.chosen: dict[str, dict[str, dict[str, float]]] = {}

    def score(self, way: str, route: Route | None, texts: Mapping[str, Tensor]) -> None:
        """Scores every text; route: None for the library's own."""
        if route is not None:
            self.library.set_route(route)
        for name, windows in texts.items():
            self.progress(f"{way}: {name}")
            loss, gates = _loss(self.library, self.model, windows)
            self.losses.setdefault(way, {})[name] = loss
            if isinstance(self.library.route, ProductKeys):
                self.chosen.setdefault(way, {})[name] = gates

    def score_mixed(self, way: str, windows: Tensor, places: Tensor) -> None:
        """Scores mixed windows, whose adapters are given."""
        self.progress(f"{way}: mixed")
        total = 0.0
        for batch, at in zip(windows.split(_BATCH), places.split(_BATCH), strict=True):
            self.library.set_route(Given(at, self.library.rank))
            total += _loss(self.library, self.model, batch)[0] * len(batch)
        self.losses.setdefault(way, {})["mixed"] = total / len(windows)


@torch.no_grad()
def _loss(
    library: LoRALibrary, model: nn.Module, windows: Tensor
) -> tuple[float, dict[str, float]]:
    """nats/token, and of a route by keys each adapter's mean gate."""
    device = next(model.parameters()).device
    total, sums = 0.0, torch.zeros(library.n_places, dtype=torch.float64)
    names = {place: name for name, place in library.places.items()} | {BASE: "base"}
    with evaluating(model), library.watching(sums):
        for batch in windows.split(_BATCH):
            total += float(next_token_loss(model, batch.to(device)).double().sum())
    n = windows.shape[0] * (windows.shape[1] - 1)
    share = sums / sums.sum().clamp(min=1e-30)
    return total / n, {names[p]: float(share[p]) for p in range(len(share)) if p in names}


def _later(
    library: LoRALibrary,
    model: nn.Module,
    texts: Texts,
    settings: Settings,
    name: str,
    lora: LoRA,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Losses without and with one adapter more, and whether the outputs of the others are equal."""
    others = {n: w for n, w in texts.held_out.items() if n != name}
    fit = {n: texts.fit[n] for n in library.names}
    route = by_text(
        library, fit, texts.background, top_k=settings.top_k, memory=settings.learned_from
    )
    old = {n: library.places[n] for n in library.names}
    outputs = {n: _outputs(library, model, n, texts.held_out[n][:1]) for n in old}
    library.set_route(route)
    found: dict[str, Any] = {"name": name, "without": {}, "with": {}}
    for when in ("without", "with"):
        for text, windows in {**others, name: texts.held_out[name]}.items():
            progress(f"{when} {name}: {text}")
            found[when][text] = _loss(library, model, windows)[0]
        if when == "without":
            library.add(lora, name=name)
            add_text(library, name, texts.fit[name])
    same = [
        torch.equal(outputs[n], _outputs(library, model, n, texts.held_out[n][:1])) for n in old
    ]
    library.use(name)
    found["own"] = _loss(library, model, texts.held_out[name])[0]
    found["equal"] = all(same)
    return found


@torch.no_grad()
def _outputs(library: LoRALibrary, model: nn.Module, name: str, windows: Tensor) -> Tensor:
    """Losses of each token by one adapter alone."""
    library.use(name)
    with evaluating(model):
        return next_token_loss(model, windows.to(next(model.parameters()).device)).cpu()
