"""Ablation on facts: units are facts, beside their siblings and other facts of the file."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from experiments.inspection.ablation.choosing import Choice, by_part, equal_mass
from experiments.inspection.ablation.facts import Fact, Facts
from experiments.inspection.ablation.result import (
    CONTROLS,
    SIBLINGS,
    TARGET,
    Ablation,
    Changes,
    rows_of_facts,
)  # fmt: skip
from experiments.inspection.contributions import contributions
from experiments.inspection.editing.applying import removed
from experiments.inspection.editing.patch import LayerEdits
from experiments.inspection.interface import Inspected
from experiments.system.environment import without_denormals
from experiments.tasks.scoring import EncodedPair, Encoder, Scorer, check_lengths

N_CONTROLS = 8  # other facts that each is compared with


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A fact in ids: its own pair, its siblings', and those of other facts."""

    fact: Fact
    own: EncodedPair
    siblings: tuple[EncodedPair, ...]
    controls: tuple[EncodedPair, ...]

    def pairs(self) -> list[EncodedPair]:
        return [self.own, *self.siblings, *self.controls]

    def parts(self, of_pairs: np.ndarray) -> list[float]:
        """Values of pairs(): that of the target, and means of siblings and, if any, controls."""
        end = 1 + len(self.siblings)
        several = (of_pairs[:1], of_pairs[1:end], of_pairs[end:])
        return [float(values.mean()) for values in several if len(values)]


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
        # facts of one family have a pair in common: they are each other's siblings
        apart = (set(fact.pairs).isdisjoint(other.pairs) for other in facts.facts)
        others = [j for j, far in enumerate(apart) if far]
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
        found = [replace(one, controls=()) for one in found]
    return found


@without_denormals()
def ablate_facts(
    scorer: Scorer, layer: Inspected, asked: Sequence[Asked], choice: Choice
) -> Ablation:
    """Changes of each fact's loss, in nats of its whole target. The model is in evaluation
    mode, and as it was afterwards.

    Raises ValueError for an index that is not of the layer, and where too few experts are read.
    """
    rng, given = np.random.default_rng(choice.seed), choice.experts
    common: tuple[np.ndarray, ...] = ()  # the experts of all facts, and those of each draw
    if given is not None:
        LayerEdits(removed=given).check(layer.name, layer.n_experts)
        pairs = [pair for one in asked for pair in one.pairs()]
        mass = np.sum([_read(scorer, layer, pair, 0)[0] for pair in pairs], 0)
        common = (np.array(given), *(equal_mass(mass, given, rng) for _ in range(choice.draws)))
    changes, experts, masses = [], {}, np.zeros(2)
    for one in tqdm(asked, desc="facts", leave=False, disable=not sys.stderr.isatty()):
        sets = common
        if given is None:
            mass, own = _read(scorer, layer, one.own, choice.top)
            sets = (own, *(equal_mass(mass, own, rng) for _ in range(choice.draws)))
        whole = _losses(scorer, layer, one, ())
        changes.append([one.parts(_losses(scorer, layer, one, e) - whole) for e in sets])
        experts[str(one.fact.line)] = tuple(sorted(sets[0].tolist()))
        masses += np.mean([mass[drawn].sum() for drawn in sets[1:]]), mass[sets[0]].sum()
    lines, targets = ([getattr(one.fact, of) for one in asked] for of in ("line", "target"))
    found = [
        Changes(
            name=name, unit=np.array(lines), tokens=np.ones(len(lines)),
            chosen=values[:, 0], drawn=values[:, 1:].T,
        )
        for name, values in zip((TARGET, SIBLINGS, CONTROLS), np.moveaxis(np.array(changes), 2, 0))
    ]  # fmt: skip
    tables = [own.table(line=own.unit, target=targets, what=own.name) for own in found]
    return Ablation(
        layer=layer.name,
        experts=experts if given is None else {"all": tuple(sorted(given))},
        n_draws=choice.draws,
        mass_ratio=float(masses[0] / masses[1]) if masses[1] else float("nan"),
        unit="fact",
        rows=rows_of_facts(found, one_choice=given is not None),
        units=pd.concat(tables).sort_index(kind="stable").reset_index(drop=True),
    )


def _read(
    scorer: Scorer, layer: Inspected, pair: EncodedPair, top: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mass (N,) of gates over a pair's tokens, and the `top` experts of the largest parts in
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


def _losses(
    scorer: Scorer, layer: Inspected, one: Asked, without: Sequence[int] | np.ndarray
) -> np.ndarray:
    """-log p of the target of each pair, nats, without these experts."""
    with removed(layer, without):
        scored = scorer.loglikelihoods(one.pairs(), quiet=True)
    return -np.array([result.logprob for result in scored])
