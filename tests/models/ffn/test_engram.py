"""Engram against its equations written out, over documents and caches, and what it refuses."""

import pytest
import torch

from experiments.models.ffn.engram import EngramConfig
from tests.models.ffn.reference import Told, assert_same, tokens_of

D, END = 12, 3
SMALL = {"n_experts": 60, "n_hashes": 2, "d_row": 5, "kernel_size": 3}


def awake(layer):
    """Layer, with nothing left at a value that hides a mistake."""
    torch.nn.init.normal_(layer.convolution)
    for norm in (layer.input_norm, layer.key_norm, layer.value_norm):
        torch.nn.init.normal_(norm.weight, mean=1.0, std=0.3)
    return layer


def made(**options):
    return awake(EngramConfig(**{**SMALL, **options}).build(D))


def documents(ids, end):
    """Places of each document of a text, in order."""
    places, found = [], []
    for i, token in enumerate(ids.tolist()):
        places.append(i)
        if token == end:
            found, places = [*found, places], []
    return [*found, places] if places else found


def rows_by_hand(config, document, i):
    """A row of each table for the token at i of a document, in Python's integers."""
    rows, each = [], config.n_experts // ((config.max_order - 1) * config.n_hashes)
    for order in range(2, config.max_order + 1):
        for _ in range(config.n_hashes):
            a = 48271 ** (len(rows) + 1)
            n_gram = [document[i - j] + 1 if j <= i else 0 for j in range(order)]
            value = sum(c * a ** (j + 1) for j, c in enumerate(n_gram)) % (2**31 - 1)
            mixed = (value ^ (value >> 15)) * a % (2**31 - 1)
            rows.append(len(rows) * each + mixed % each)
    return rows


def written_out(layer, x, ids, end):
    """arXiv:2601.07372: e = the rows, one after the other; a = sigmoid(RN(h) . RN(W_K e) / sqrt d);
    v = a W_V e; y = silu(conv(RN v)) + v. Each document by itself, a token at a time.
    """

    def rn(z, norm):
        return z / (z.square().mean() + torch.finfo(z.dtype).eps).sqrt() * norm.weight

    out = torch.zeros_like(x)
    for b, text in enumerate(ids):
        for places in documents(text, end):
            document, values, normed = text[places].tolist(), [], []
            for i, place in enumerate(places):
                rows = rows_by_hand(layer.config, document, i)
                e = torch.cat([layer.values[r] for r in rows])
                key = rn(layer.w_key.weight @ e, layer.key_norm)
                g = rn(x[b, place], layer.input_norm) @ key / x.shape[-1] ** 0.5
                if layer.config.gate_root:
                    g = g.sign() * max(g.abs(), torch.tensor(1e-6).double()).sqrt()
                a = g.sigmoid()
                values.append(a * (layer.w_value.weight @ e))
                normed.append(rn(values[-1], layer.value_norm))
                reached = range(0, i + 1, layer.config.dilation)
                conv = sum(w * normed[i - j] for w, j in zip(layer.convolution, reached))
                y = conv / (1 + (-conv).exp()) + values[-1]
                out = out.index_put((torch.tensor(b), torch.tensor(place)), y)
    return out


@pytest.mark.parametrize("end", [None, END])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_order": 2},
        {"max_order": 4, "n_hashes": 1},
        {"kernel_size": 1},
        {"kernel_size": 20},  # longer than the text
        {"gate_root": True},
        {"dilation": 3},
        {"gate_root": True, "dilation": 2, "kernel_size": 4, "max_order": 2},
    ],
)
def test_output_and_gradients_are_those_written_out(options, end):
    layer, x = made(**options).double(), torch.randn(2, 9, D, dtype=torch.float64)
    ids = torch.randint(0, 8, (2, 9))
    told = Told(layer, tokens_of(ids, end))
    assert_same(told, lambda x: written_out(layer, x, ids, end), x)


def test_the_hash_is_the_documented_formula_and_stays_what_it_is():
    config = EngramConfig(n_experts=4000, max_order=3, n_hashes=2, d_row=1)
    layer, ids = config.build(4), torch.randint(0, 2**31 - 2, (3, 20))
    found = layer.find_rows(tokens_of(ids))
    for text, rows in zip(ids.tolist(), found.tolist(), strict=True):
        assert rows == [rows_by_hand(config, text, i) for i in range(20)]
    assert EngramConfig(n_experts=8 * (2**31 - 2)).n_in_table == 2**31 - 2  # as many as can be
    seen = layer.find_rows(tokens_of(torch.tensor([[5, 3, 7]])))[0].tolist()
    assert seen == [[596, 1821, 2401, 3466], [310, 1911, 2250, 3713], [308, 1415, 2552, 3064]]


def test_rows_of_n_grams_are_spread_evenly():
    """A row of 512 gets 8 of all pairs of 64 ids in the mean, as a random function would give."""
    layer = EngramConfig(n_experts=512 * 3, max_order=2, n_hashes=3, d_row=1).build(4)
    pairs = torch.cartesian_prod(torch.arange(64), torch.arange(64))
    rows = layer.find_rows(tokens_of(pairs))[:, 1] - 512 * torch.arange(3)
    for of_table in rows.T:
        counts = torch.bincount(of_table, minlength=512).double()
        assert counts.var() < 2 * counts.mean()  # Poisson's is once the mean
    together = rows[:, 0] * 512 + rows[:, 1]
    assert len(together.unique()) > 0.97 * len(pairs)  # what one table joins another keeps apart


def test_a_gate_at_nothing_is_a_half_and_finite():
    """The root's slope is without bound at 0, where a table that starts at zero puts it."""
    layer, x = made(gate_root=True, value_init="zero"), torch.randn(2, 9, D)
    ids = tokens_of(torch.randint(0, 8, (2, 9)))
    assert (layer.slots(x.flatten(0, 1), ids).gates == 0.5).all()
    layer(x, ids).sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


def test_costs_by_hand():
    """d=1024: 2**20 rows of 128, two orders of four hashes, a kernel of 4."""
    cost = EngramConfig().cost(1024)
    maps = 2 * 1024 * 1024
    assert cost.n_params == 2**20 * 128 + maps + 4 * 1024 + 3 * 1024
    assert cost.n_active_params == 8 * 128 + maps + 4 * 1024 + 3 * 1024
    assert cost.forward_flops == 2 * maps + 2 * 8 * 128 + 2 * 1024 + 2 * 4 * 1024


def test_autocast_does_not_reach_gate_and_convolution():
    layer, x = made(), torch.randn(2, 9, D)
    ids = tokens_of(torch.randint(0, 8, (2, 9)))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        y = layer(x, ids)
    torch.testing.assert_close(y, layer(x, ids), rtol=0.05, atol=0.05)
    assert y.dtype == torch.float32


def test_a_zero_table_writes_zeros_and_learns_alone():
    layer = made(value_init="zero")
    ids, x = tokens_of(torch.randint(0, 8, (2, 9))), torch.randn(2, 9, D)
    y = layer(x, ids)
    assert not y.any()
    (y - torch.randn_like(y)).square().sum().backward()
    assert layer.values.grad.isfinite().all()
    assert layer.values.grad.any()
