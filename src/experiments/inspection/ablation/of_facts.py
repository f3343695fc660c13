"""Ablation on facts: units are facts, beside their siblings and other facts of the file."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from experiments.inspection.ablation.choosing import by_part, equal_mass
from experiments.inspection.ablation.facts import Fact, Facts
from experiments.inspection.ablation.result import (
    CONTROLS,
    SIBLINGS,
    TARGET,
    Ablation,
    rows_of_facts,
)
from experiments.inspection.contributions import contributions
from experiments.inspection.editing.patch import LayerEdits
from experiments.inspection.interface import Inspected
from experiments.inspection.removal import removed
from experiments.system.environment import without_denormals
from experiments.tasks.scoring import EncodedPair, Encoder, Scorer, check_lengths

N_CONTROLS = 8  # other facts that each is compared with


@dataclass(frozen=True, kw_only=True)
class OfFacts:
    """experts: by index, the same for all facts; None: of each fact the `top` whose direct parts in
    the logits of its target are the largest (contributions.py).
    """

    experts: tuple[int, ...] | None
    top: int
    n_draws: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A fact in ids: its own pair, its siblings', and those of other facts."""

    fact: Fact
    own: EncodedPair
    siblings: tuple[EncodedPair, ...]
    controls: tuple[EncodedPair, ...]

    def pairs(self) -> list[EncodedPair]:
        return [self.own, *self.siblings, *self.controls]

    def parts(self, of_pairs: np.ndarray) -> dict[str, float]:
        """Values of pairs() as one of the target, and means of siblings and of controls."""
        end = 1 + len(self.siblings)
        own = {TARGET: float(of_pairs[0]), SIBLINGS: float(of_pairs[1:end].mean())}
        return own if not self.controls else {**own, CONTROLS: float(of_pairs[end:].mean())}


def encode_facts(facts: Facts, encoder: Encoder, seq_len: int, seed: int) -> list[Asked]:
    """Raises ValueError, naming the line, for what the vocabulary or the window can't score."""
    encoded: list[list[EncodedPair]] = []
    for fact in facts.facts:
        try:
            pairs = [encoder.encode_pair(*pair) for pair in fact.pairs]
            check_lengths(pairs, seq_len)
        except ValueError as error:
            raise ValueError(f"{facts.path}, line {fact.line}: {error}") from None
        encoded.append(pairs)
    rng, found = np.random.default_rng([seed, 1]), []
    for i, fact in enumerate(facts.facts):
        others = [j for j in range(len(encoded)) if j != i and _are_apart(fact, facts.facts[j])]
        chosen = rng.permutation(others)[:N_CONTROLS].tolist()
        found.append(
            Asked(
                fact=fact,
                own=encoded[i][0],
                siblings=tuple(encoded[i][1:]),
                controls=tuple(encoded[j][0] for j in chosen),
            )
        )
    if not all(one.controls for one in found):  # then none: a mean is of the same facts
        found = [Asked(fact=a.fact, own=a.own, siblings=a.siblings, controls=()) for a in found]
    return found


def _are_apart(one: Fact, other: Fact) -> bool:
    """Whether they have no pair in common: facts of one family are each other's siblings."""
    return set(one.pairs).isdisjoint(other.pairs)


@without_denormals()
def ablate_facts(
    scorer: Scorer, layer: Inspected, asked: Sequence[Asked], how: OfFacts
) -> Ablation:
    """The changes of each fact's loss, in nats of its whole target. The model is in evaluation
    mode, and as it was afterwards.

    Raises ValueError for an index that is not of the layer, and where too few experts are read.
    """
    rng = np.random.default_rng(how.seed)
    chosen: list[Mapping[str, float]] = []
    drawn: list[list[Mapping[str, float]]] = []
    experts, masses = {}, np.zeros(2)
    given, common = how.experts, []
    if given is not None:
        LayerEdits(removed=given).check(layer.name, layer.n_experts)
        mass = np.sum(
            [_read(scorer, layer, pair, 0)[0] for one in asked for pair in one.pairs()], 0
        )
        common = [equal_mass(mass, given, rng) for _ in range(how.n_draws)]
    bar = tqdm(asked, desc="facts", leave=False, disable=not sys.stderr.isatty())
    for one in bar:
        if given is None:
            mass, own = _read(scorer, layer, one.own, how.top)
            draws = [equal_mass(mass, own, rng) for _ in range(how.n_draws)]
        else:
            own, draws = np.array(given, np.int64), common
        whole = _losses(scorer, one)
        chosen.append(one.parts(_without(scorer, layer, one, own) - whole))
        drawn.append([one.parts(_without(scorer, layer, one, d) - whole) for d in draws])
        experts[str(one.fact.line)] = tuple(sorted(own.tolist()))
        masses += np.mean([mass[d].sum() for d in draws]), mass[own].sum()
    what = tuple(chosen[0])
    found = {key: np.array([one[key] for one in chosen]) for key in what}
    by_draw = {key: np.array([[d[key] for d in one] for one in drawn]).T for key in what}
    return Ablation(
        layer=layer.name,
        experts=experts if given is None else {"all": tuple(sorted(given))},
        n_draws=how.n_draws,
        mass_ratio=float(masses[0] / masses[1]) if masses[1] else float("nan"),
        unit="fact",
        rows=rows_of_facts(found, by_draw, one_choice=given is not None),
        units=_table(asked, found, by_draw),
    )


def _read(
    scorer: Scorer, layer: Inspected, pair: EncodedPair, top: int
) -> tuple[np.ndarray, np.ndarray]:
    """The mass (N,) of gates over a pair's tokens, and the `top` experts of the largest parts in
    its target's logits.
    """
    context, target = pair
    ids = torch.tensor((context + target)[-(scorer.seq_len + 1) :])
    (found,) = contributions(scorer.model, [layer], ids[:-1], ids[1:].to(scorer.device))
    slots = found.slots
    mass = np.zeros(layer.n_experts)
    np.add.at(mass, slots.experts.cpu().numpy(), slots.gates.double().cpu().numpy())
    last = slice(len(ids) - 1 - len(target), None)
    experts, parts = slots.experts[last].cpu().numpy(), found.of_slots[last].cpu().numpy()
    return mass, by_part(experts.ravel(), parts.ravel(), top)


def _losses(scorer: Scorer, one: Asked) -> np.ndarray:
    """-log p of the target of each pair, nats."""
    scored = scorer.loglikelihoods(one.pairs(), quiet=True)
    return -np.array([result.logprob for result in scored])


def _without(scorer: Scorer, layer: Inspected, one: Asked, experts: np.ndarray) -> np.ndarray:
    with removed(layer, experts.tolist()):
        return _losses(scorer, one)


def _table(
    asked: Sequence[Asked], chosen: Mapping[str, np.ndarray], drawn: Mapping[str, np.ndarray]
) -> pd.DataFrame:
    lines = []
    for i, one in enumerate(asked):
        for what, values in chosen.items():
            draws = {f"random.{d}": v[i] for d, v in enumerate(drawn[what], 1)}
            about = {"line": one.fact.line, "target": one.fact.target, "what": what}
            lines.append({**about, "chosen": values[i], **draws})
    return pd.DataFrame(lines)
