"""One pass over texts: each document's mass of every expert, and of its tokens."""

import numpy as np
import torch
from scipy import sparse

from experiments.inspection.interface import find_device, listening
from experiments.inspection.statistics import Bounds, counted
from tests.study.inside.naming import Read, halves


class Sums:
    """Sums by row and column, added up in bulk."""

    def __init__(self, n_columns):
        self.n_columns, self.parts = n_columns, []

    def add(self, rows, columns, values):
        keys, place = np.unique(rows * self.n_columns + columns, return_inverse=True)
        self.parts.append((keys, np.bincount(place, values)))
        if len(self.parts) > 64:
            self.parts = [self.together()]

    def together(self):
        keys, place = np.unique(np.concatenate([k for k, _ in self.parts]), return_inverse=True)
        return keys, np.bincount(place, np.concatenate([v for _, v in self.parts]))

    def matrix(self, n_rows):
        keys, values = self.together()
        at = np.divmod(keys, self.n_columns)
        return sparse.csr_matrix((values, at), shape=(n_rows, self.n_columns))


def read_masses(model, layers, reading):
    """By layer, a Read; Reads of "token", each token's id as the expert that it reads; and by layer
    the mass (2 V, N) of each expert by the token that reads it, in each half of the documents.
    """
    vocab_size = len(reading.classes)
    sums = {layer.name: Sums(layer.n_experts) for layer in layers}
    by_token = {layer.name: Sums(layer.n_experts) for layer in layers}
    sums["token"] = Sums(vocab_size)
    place, domain, tokens, half = {}, [], [], []

    def hear(layer, x, given):
        slots = counted(layer.layer.slots(x, given), Bounds())
        experts, gates = slots.experts.numpy(), slots.gates.double().numpy()
        for of, rows in ((sums, place["rows"]), (by_token, place["tokens"])):
            of[layer.name].add(np.repeat(rows, experts.shape[1]), experts.ravel(), gates.ravel())

    last = None
    exact = torch.autocast(find_device(model).type, enabled=False)
    with torch.no_grad(), exact, listening(layers, hear):
        for text, ids, _, documents in reading.batches():
            flat, rows = ids.numpy().ravel(), np.zeros(ids.numel(), np.int64)
            for i, number in enumerate(documents.ravel()):
                if (text, number) != last:
                    half.append(domain.count(text) % 2)
                    domain.append(text)
                    tokens.append(0)
                    last = (text, number)
                rows[i] = len(domain) - 1
                tokens[-1] += 1
            place.update(rows=rows, tokens=np.array(half)[rows] * vocab_size + flat)
            sums["token"].add(rows, flat, np.ones(len(flat)))
            model(ids.to(find_device(model)))
    about = {"domain": np.array(domain), "tokens": np.array(tokens, float)}
    reads = {name: Read(mass=s.matrix(len(domain)), **about) for name, s in sums.items()}
    return reads, {name: s.matrix(2 * vocab_size) for name, s in by_token.items()}


def by_tokens_alone(tokens, by_token):
    """(documents, N): the masses if a token read what it does in the other half of the documents,
    wherever it stands. tokens: the Read of "token".
    """
    counts, half, n = tokens.mass, halves(tokens), tokens.mass.shape[1]
    found = []
    for h in (0, 1):
        other = by_token[(1 - h) * n : (2 - h) * n]
        n_other = np.asarray(counts[half != h].sum(0)).ravel()
        mean = sparse.diags(1 / np.maximum(n_other, 1)) @ other
        found.append(sparse.diags((half == h).astype(float)) @ counts @ mean)
    return (found[0] + found[1]).tocsr()


def by_first_key(read, columns):
    """Experts of a row of product keys as one: (documents, rows)."""
    n = read.mass.shape[1]
    to = sparse.csr_matrix(
        (np.ones(n), (np.arange(n), np.arange(n) // columns)), shape=(n, n // columns)
    )
    return Read(mass=(read.mass @ to).tocsr(), domain=read.domain, tokens=read.tokens)
