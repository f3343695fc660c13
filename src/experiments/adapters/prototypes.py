"""Keys of adapters, from a little of the text that each is for: in closed form, or learned.

In closed form an adapter's key is a linear discriminant (Fisher 1936; Hastie 2009, §4.3) of its
text against the background, text of what the base knows: of hidden states h with means m_a and m_0
and one covariance S within texts, the log-likelihood ratio w . h + c, w = S^-1 (m_a - m_0),
c = -(m_a + m_0) . w / 2. The base's is 0. Tokens are taken as independent, so the evidence of
several adds up; as they are not, scores are divided by a temperature, which is found on the same
texts. A key that comes later uses the covariance, the background and the temperature that are
there, so no other key changes. (Closed-form routers: arXiv:2603.29765, by ridge regression.)
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.adapters.library import LoRALibrary
from experiments.adapters.routes import BASE, ProductKeys, Reading, check_top_k
from experiments.init.slots import evaluating

# of the covariance towards its mean variance: few texts don't fill all directions
_SHRINKAGE = 0.01
_TEMPERATURES = tuple(2 ** (i / 2) for i in range(-2, 21))  # 0.5 to 1,024
_BATCH = 8  # windows at once


@dataclass(frozen=True, kw_only=True)
class Background:
    """Statistics for a key in closed form: the mean (d,) and the inverse covariance (d, d)."""

    mean: Tensor
    precision: Tensor

    def key(self, mean: Tensor) -> Tensor:
        """(d + 1,) float32, of a text's mean (d,): the weights, and the constant of one token."""
        mean = mean.to(self.mean)  # of a library from a file: that is on the CPU
        weights = self.precision @ (mean - self.mean)
        constant = -(mean + self.mean) @ weights / 2
        return torch.cat([weights, constant[None]]).float()


class TextKeys(ProductKeys):
    """Product keys that were made of texts: a new adapter's key is made as theirs were."""

    background: Background


def by_text(
    library: LoRALibrary,
    texts: Mapping[str, Tensor],
    background: Tensor,
    *,
    top_k: int = 2,
    memory: float = 64,
) -> TextKeys:
    """Sets, and returns, the route of closed-form keys; one pass of the base over the texts.

    texts: token ids (n, seq) of windows of each adapter's text; one without is not retrieved.
    background: windows of text that needs no adapter. The library is attached to its model. top_k:
    adapters a token, the base among them. memory: of the evidence, in tokens; 1: each token by
    itself; inf: all of the sequence so far.

    Raises ValueError for an unknown name, no text, and a library that is not attached.
    """
    check_top_k(top_k, 1.0)
    model = attached(library)
    if not texts:
        raise ValueError("texts={} names no adapter; give windows of at least one")
    places = {name: library.place(name) for name in texts}
    states = {BASE: _states(library, model, background)}
    for name, windows in texts.items():
        states[places[name]] = _states(library, model, windows)
    means = {place: h.flatten(0, 1).mean(0) for place, h in states.items()}
    found = Background(mean=means[BASE], precision=_precision(states, means))
    d_model = len(found.mean)
    route = TextKeys(d_model, rank=library.rank, top_k=top_k, memory=memory)
    route.background = found
    library.set_route(route)
    for place in places.values():
        route.set_key(place, found.key(means[place]))
    route.temperature = _temperature(route, states)
    return route


def add_text(library: LoRALibrary, name: str, windows: Tensor) -> None:
    """Gives a later adapter its key, from windows (n, seq) of its text. No other key changes.

    Raises ValueError unless the library's route was made by by_text().
    """
    place, route = library.place(name), library.route
    if not isinstance(route, TextKeys):
        raise ValueError(f"the library's route is {type(route).__name__}; call by_text first")
    mean = _states(library, attached(library), windows).flatten(0, 1).mean(0)
    route.set_key(place, route.background.key(mean))


def learn(
    library: LoRALibrary,
    windows: Tensor,
    *,
    n_steps: int,
    lr: float = 0.005,
    batch_size: int = 4,
    seed: int = 0,
) -> list[float]:
    """Trains the keys of the library's route by next-token loss, and returns the losses.

    The base and the adapters stay as they are; by_text() gives the keys to start from. windows:
    (n, seq) token ids of all domains, mixed. lr: Adam's, relative to a key's size, falling to 0
    linearly.

    Raises ValueError for a route without keys, and for no step.
    """
    route = library.route
    if not isinstance(route, ProductKeys):
        raise ValueError(f"the library's route is {type(route).__name__}; call by_text first")
    if n_steps < 1 or not lr > 0:
        raise ValueError(f"n_steps={n_steps} must be at least 1 and lr={lr} above 0")
    model = attached(library)
    start = route.keys
    scale = start.std(0).clamp(min=1e-6)  # what is small moves little
    moved = torch.zeros_like(start, requires_grad=True)
    generator = torch.Generator().manual_seed(seed)
    adam = torch.optim.Adam([moved], lr=lr)
    losses = []
    with evaluating(model), _frozen(model):
        for step in range(n_steps):
            chosen = torch.randint(len(windows), (batch_size,), generator=generator)
            tokens = windows[chosen].to(next(model.parameters()).device)
            route.keys = start + moved * scale
            loss = next_token_loss(model, tokens).mean()
            adam.zero_grad()
            loss.backward()
            adam.param_groups[0]["lr"] = lr * (1 - step / n_steps)
            adam.step()
            losses.append(float(loss.detach()))
    route.keys = (start + moved * scale).detach()
    return losses


def attached(library: LoRALibrary) -> nn.Module:
    """Library's model. Raises ValueError if it is on none."""
    if library.model is None:
        raise ValueError("the library is attached to no model; call attach(model) first")
    return library.model


def next_token_loss(model: nn.Module, tokens: Tensor) -> Tensor:
    """(batch, n - 1) nats, of a model of ours or of transformers."""
    output = model(tokens)
    logits = output if isinstance(output, Tensor) else output.logits
    return F.cross_entropy(logits[:, :-1].float().transpose(1, 2), tokens[:, 1:], reduction="none")


class _Read(Exception):
    """Ends a forward pass whose first hidden states are known."""


@torch.no_grad()
def _states(library: LoRALibrary, model: nn.Module, windows: Tensor) -> Tensor:
    """(n, seq, d) float64: what enters the first block that has an adapter, of the base."""
    if windows.dim() != 2 or not windows.numel():
        raise ValueError(f"windows must be token ids (n, seq), and are {tuple(windows.shape)}")
    found: list[Tensor] = []

    def take(states: Tensor) -> None:
        found.append(states.double())
        raise _Read

    device = next(model.parameters()).device
    with evaluating(model), library.reading(take):
        for batch in windows.split(_BATCH):
            with contextlib.suppress(_Read):
                model(batch.to(device))
    return torch.cat(found)


def _precision(states: Mapping[int, Tensor], means: Mapping[int, Tensor]) -> Tensor:
    """(d, d) the inverse of the covariance within texts, each text with one weight."""
    d = next(iter(means.values())).shape[0]
    covariance = torch.zeros(d, d, dtype=torch.float64, device=means[BASE].device)
    for place, h in states.items():
        centred = h.flatten(0, 1) - means[place]
        covariance += centred.T @ centred / (len(centred) * len(states))
    mean_variance = covariance.diagonal().mean()
    shrunk = (1 - _SHRINKAGE) * covariance
    shrunk += _SHRINKAGE * mean_variance * torch.eye(d, dtype=torch.float64, device=h.device)
    return torch.linalg.inv(shrunk)


def _temperature(route: ProductKeys, states: Mapping[int, Tensor]) -> float:
    """One of the grid by which the right places are likeliest, over all positions."""
    scores, right = [], []
    keys = route.keys
    for i, place in enumerate(route.places.tolist()):
        h = states[place]
        said = route.said(h, Reading())
        scores.append((said @ keys.to(said).T).flatten(0, 1))
        right.append(torch.full((len(scores[-1]),), i))
    every, targets = torch.cat(scores), torch.cat(right).to(scores[0].device)
    weights = torch.tensor([1 / len(s) for s in scores]).to(every)
    losses = [float(F.cross_entropy(every / t, targets, weight=weights)) for t in _TEMPERATURES]
    return _TEMPERATURES[losses.index(min(losses))]


@contextlib.contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Without gradients of the model's own weights, for a while."""
    trained = [p for p in model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_()
